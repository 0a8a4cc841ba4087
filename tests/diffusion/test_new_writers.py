"""What a short training makes of hands that the shipped model has never seen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from diffusion.new_writers import MOST_PREDICTIONS, share_out
from diffusion.pipeline import HandwritingPipeline
from tests.helpers import ROOT, run_script
from unet import UNet
from utils.output import save_image
from utils.text_images import IMAGE_FOLDER, TextImage, write_metadata

IMG_SIZE = (80, 640)  # of the height of the shipped model
TAUGHT = (
    "house",
    "river",
    "stone",
    "light",
    "garden",
    "window",
    "paper",
    "water",
    "summer",
    "letter",
    "bridge",
    "market",
    "orange",
    "silver",
    "table",
    "green",
    "winter",
    "doctor",
    "forest",
    "island",
    "candle",
    "number",
    "flower",
    "minute",
    "street",
    "animal",
    "dinner",
    "mother",
    "planet",
    "record",
)
ASKED = (
    "archive",
    "thunder",
    "lantern",
    "monster",
    "reader",
    "golden",
    "simple",
    "border",
    "travel",
    "united",
)
# Fewer steps than the demo's 150 show it: after 60 the two hands differ as the taught words do.
STEPS = 60


def draw_hand(text, stroke, slant):
    """A word of one size, its strokes widened by ``stroke`` pixels on each side, sheared by ``slant`` pixels
    a pixel.
    """
    font = ImageFont.load_default(size=40)
    canvas = Image.new("L", IMG_SIZE[::-1], 255)
    ImageDraw.Draw(canvas).text((6, 6), text, fill=20, font=font, stroke_width=stroke)
    return canvas.transform(
        canvas.size,
        Image.Transform.AFFINE,
        (1, slant, -slant * 52, 0, 1, 0),
        Image.Resampling.BILINEAR,
        fillcolor=255,
    )


KNOWN = {"me": "kalam-bold", "you": "damion", "them": "dhsd-3"}
HANDS = {"bold": (1, 0.0), "slanted": (0, 0.6)}


def measure_stroke(image):
    """Mean stroke width in pixels: twice the ink's area over the length of its outline."""
    ink = np.pad(image < 160, 1)
    outline = np.abs(np.diff(ink.astype(int), axis=0)).sum() + np.abs(np.diff(ink.astype(int), axis=1)).sum()
    return 2 * ink.sum() / outline


def measure_slant(image):
    """By how much the strokes lean to the right, pixels a pixel: a shear adds that share of the gradient
    along x to that along y, and letters have both without a relation."""
    down, right = np.gradient(image.astype(float))
    return (down * right).sum() / (right**2).sum()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """New words in both hands by the shipped model, after a short training on 30 words of each: by hand, (N,
    H, W).
    """
    data, run = tmp_path_factory.mktemp("hands") / "words", tmp_path_factory.mktemp("runs") / "run"
    (data / IMAGE_FOLDER).mkdir(parents=True)
    records = []
    for name, (stroke, slant) in HANDS.items():
        for text in TAUGHT:
            records.append(
                TextImage(
                    file_name=f"{IMAGE_FOLDER}/{name}-{text}.png", text=text, writer=name, split="train"
                )
            )
            save_image(draw_hand(text, stroke, slant), data / records[-1].file_name)
    write_metadata(data, records)
    run_script(
        "train_diffusion",
        "--dataset_path",
        data,
        "--init_from",
        ROOT / "models" / "demo",
        "--save_path",
        run,
        "--max_train_steps",
        STEPS,
        "--batch_size",
        32,
        "--learning_rate",
        5e-4,
        "--lr_warmup_steps",
        20,
        "--ema_decay",
        0.95,
        "--recognition_weight",
        0,
    )
    pipeline = HandwritingPipeline.from_pretrained(run)
    return {name: pipeline(ASKED, [name] * len(ASKED), num_inference_steps=8, redraws=0) for name in HANDS}


@pytest.mark.parametrize("measure", [measure_stroke, measure_slant])
def test_two_new_hands_that_differ_at_a_glance_are_told_apart(written, measure):
    taught = {
        name: np.mean([measure(np.asarray(draw_hand(text, *shape))) for text in TAUGHT])
        for name, shape in HANDS.items()
    }
    right = [
        abs(measure(image) - taught[name]) < abs(measure(image) - taught[other])
        for name, other in zip(HANDS, reversed(HANDS), strict=True)
        for image in written[name]
    ]
    assert np.mean(right) >= 0.9


def as_model_of_rows(pipeline, writers):
    """The same model with some of its writers, each a row that says what vector and offset said."""
    unet, config = pipeline.unet, pipeline.config
    rows = torch.tensor([*(config.writers.index(name) for name in writers), unet.config.null_writer_id])
    state = {k: v for k, v in unet.state_dict().items() if not k.startswith(("style_", "writer_styles"))}
    shares, styles = torch.ones(len(rows), 1), unet.writer_styles[rows]
    state["writer_embedding.weight"] = unet.embed_writers(rows[:, None], shares, styles)
    plain = UNet(replace(unet.config, num_writers=len(writers), style_dim=None))
    plain.load_state_dict(state)
    return HandwritingPipeline(plain, pipeline.vae, replace(config, writers=tuple(writers)))


def test_a_new_writer_starts_as_the_known_one_who_writes_like_that(tmp_path, capsys):
    shipped = HandwritingPipeline.from_pretrained(ROOT / "models" / "demo" / "teacher")
    pipeline = as_model_of_rows(shipped, sorted({*KNOWN.values(), *shipped.config.writers[::10]}))
    pipeline.save_pretrained(tmp_path / "rows")
    (tmp_path / "words" / IMAGE_FOLDER).mkdir(parents=True)
    records = []
    for name, known in KNOWN.items():
        for text, image in zip(
            ASKED, pipeline(ASKED, [known] * len(ASKED), num_inference_steps=8), strict=True
        ):
            records.append(
                TextImage(
                    file_name=f"{IMAGE_FOLDER}/{name}-{text}.png", text=text, writer=name, split="train"
                )
            )
            save_image(Image.fromarray(image), tmp_path / "words" / records[-1].file_name)
    write_metadata(tmp_path / "words", records)
    run_script(
        "train_diffusion",
        "--dataset_path",
        tmp_path / "words",
        "--init_from",
        tmp_path / "rows",
        "--save_path",
        tmp_path / "run",
        "--max_train_steps",
        1,
        "--batch_size",
        4,
        "--learning_rate",
        1e-12,
        "--recognition_weight",
        0,
    )
    said = capsys.readouterr().out
    assert all(f"{name} as {known}" in said for name, known in KNOWN.items())
    unet = HandwritingPipeline.from_pretrained(tmp_path / "run").unet
    names = pipeline.config.writers
    starts = pipeline.unet.writer_embedding.weight[[names.index(KNOWN[name]) for name in sorted(KNOWN)]]
    torch.testing.assert_close(unet.writer_embedding.weight[len(names) : -1], starts, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("new", "known"), [(1, 45), (6, 45), (213, 45), (400, 401), (5, 2)])
def test_the_search_for_the_nearest_hands_is_bounded(new, known):
    words, hands = share_out(new, known)
    assert new * words * hands <= MOST_PREDICTIONS or (words, hands) == (2, min(known, 8))
    assert 2 <= words <= 12 and 1 <= hands <= known
