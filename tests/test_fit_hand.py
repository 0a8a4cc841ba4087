"""train_diffusion.py --fit_hand, run for real: a few steps on a tiny model that takes hands from images."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusion.hand_fitting import FIT_SETTINGS, HandTrainer, make_fit_settings, measure_width_scale
from diffusion.hands import STYLE_SPACE, Hand
from diffusion.latent_recogniser import LatentRecogniser, LatentRecogniserConfig
from diffusion.layout import WidthModel
from diffusion.pipeline import HandwritingPipeline
from diffusion.presets import make_config
from diffusion.styles import hash_encoder
from evaluation.fractions import copy_images
from feature_extractor import StyleEncoder, StyleEncoderConfig
from generation.hands import Hands
from tests.helpers import IMG_SIZE, WORDS, WRITERS, hash_tree, make_word_folder, nudge_zeros, run_script
from unet import UNet
from utils.errors import UserError
from utils.text_images import TextImage, read_text_images

STYLE_DIM = 6
FAST = ("--max_train_steps", 3, "--batch_size", 4, "--mixed_precision", "no")


@pytest.fixture(scope="module")
def model(pipeline, tmp_path_factory):
    """A checkpoint of a model that takes hands from images, with a latent recogniser."""
    torch.manual_seed(0)
    sizes = {"vocabulary_size": pipeline.unet.config.vocabulary_size, "max_length": 8}
    unet = nudge_zeros(UNet(make_config("tiny", num_writers=3, style_dim=STYLE_DIM, **sizes)))
    unet.writer_styles[:3] = torch.nn.functional.normalize(torch.randn(3, STYLE_DIM), dim=1)
    unet.writer_styles[3] = 0
    encoder = StyleEncoder(
        StyleEncoderConfig(
            backbone="mobilenet_v3_small", style_dim=STYLE_DIM, writers=WRITERS, img_size=IMG_SIZE
        )
    ).eval()
    recogniser = LatentRecogniser(
        LatentRecogniserConfig(vocabulary_size=sizes["vocabulary_size"], latent_height=IMG_SIZE[0] // 8)
    )
    config = replace(pipeline.config, extra={"preset": "tiny", STYLE_SPACE: hash_encoder(encoder)})
    folder = tmp_path_factory.mktemp("model")
    HandwritingPipeline(unet, pipeline.vae, config, recogniser, encoder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """Eight words of one hand, whose name is also one of the model's own."""
    folder = tmp_path_factory.mktemp("data") / "mine"
    make_word_folder(folder, WORDS[:8], WRITERS[:1], img_size=IMG_SIZE)
    return folder


@pytest.fixture(scope="module")
def fit(model, mine, tmp_path_factory):
    """Fit a hand in this process; returns where it was to be written."""

    def run(*argv, data=mine, init_from=model, target="me.safetensors"):
        path = tmp_path_factory.mktemp("hands") / target
        flags = [flag for flag in FAST if FAST[0] not in argv or flag not in FAST[:2]]
        given = ("--dataset_path", data, "--init_from", init_from, "--fit_hand", path)
        run_script("train_diffusion", *given, *flags, *argv)
        return path

    return run


@pytest.fixture(scope="module")
def fitted(fit):
    return fit()


def write_all(pipeline):
    writers = [*WRITERS, None]
    return pipeline(["bead"] * 4, writers, num_inference_steps=2, redraws=0)


def test_a_fitted_hand_has_the_mean_vector_of_its_images_and_a_trained_offset(fitted):
    hand = Hand.load(fitted)
    assert float(hand.style.norm()) == pytest.approx(1.0, abs=1e-5)
    assert hand.offset is not None and hand.offset.any() and hand.width_scale > 0


def test_a_hand_file_is_small(fitted):
    assert fitted.stat().st_size < 1_000_000


def test_the_other_hands_are_written_bit_for_bit_as_before(model, fitted):
    before, after = (HandwritingPipeline.from_pretrained(model) for _ in range(2))
    after.add_hands({"me": Hand.load(fitted)})
    assert (write_all(before) == write_all(after)).all()
    mine = after(["bead"], ["me"], num_inference_steps=2, redraws=0)
    assert (mine != write_all(after)[:1]).any()


def test_the_offset_says_something_that_the_vector_does_not(model, fitted):
    pipeline = HandwritingPipeline.from_pretrained(model)
    hand = Hand.load(fitted)
    pipeline.add_hands({"fitted": hand, "unfitted": replace(hand, offset=None)})
    one, other = pipeline(["bead"] * 2, ["fitted", "unfitted"], num_inference_steps=2, indices=[0, 0])
    assert (one != other).any()


def test_the_weights_of_a_hands_own_say_something_that_the_offset_does_not(model, fitted):
    pipeline = HandwritingPipeline.from_pretrained(model)
    hand = Hand.load(fitted)
    assert hand.low_rank
    pipeline.add_hands({"fitted": hand, "without": replace(hand, low_rank={})})
    one, other = pipeline(["bead"] * 2, ["fitted", "without"], num_inference_steps=2, indices=[0, 0])
    assert (one != other).any()


def test_rank_0_trains_the_offset_alone(fit, fitted):
    path = fit("--hand_rank", 0)
    assert not Hand.load(path).low_rank and Hand.load(path).offset.any()
    assert path.stat().st_size < fitted.stat().st_size / 2


def test_more_images_get_more_steps(model):
    config = HandwritingPipeline.from_pretrained(model).config
    given = dict.fromkeys(FIT_SETTINGS)
    steps = [make_fit_settings(given, config, images, 8).max_train_steps for images in (1, 10, 100, 10_000)]
    assert steps[0] < steps[1] < steps[2] < steps[3] <= 500
    assert make_fit_settings(given | {"max_train_steps": 7}, config, 100, 8).max_train_steps == 7


def test_a_hand_fitted_beside_others_is_the_one_that_is_fitted_alone(fit, several, tmp_path):
    together = fit(data=several, target="hands")
    (one, *_) = sorted(together.glob("*.safetensors"))
    alone = tmp_path / "alone"
    records = [record for record in read_text_images(several) if record.writer == one.stem]
    copy_images(several, records, alone)
    prints = [
        Hands(writer=None, mix=None, added={"": Hand.load(path)}).fingerprints()
        for path in (one, fit(data=alone))
    ]
    assert prints[0] == prints[1]


def test_the_model_and_the_images_are_not_touched(model, mine, fit):
    before = hash_tree(model), hash_tree(mine)
    fit()
    assert (hash_tree(model), hash_tree(mine)) == before


def test_the_seed_decides_what_comes_out(fit, fitted):
    offsets = [Hand.load(path).offset for path in (fitted, fit(), fit("--seed", 1))]
    assert torch.equal(offsets[0], offsets[1]) and not torch.equal(offsets[0], offsets[2])


def test_nothing_stays_beside_the_hand(fitted):
    assert [path.name for path in fitted.parent.iterdir()] == ["me.safetensors"]


def test_a_shared_cache_keeps_the_encoded_images(fit, fitted, tmp_path):
    hand = Hand.load(fit("--latent_cache", tmp_path / "cache"))
    assert torch.equal(hand.offset, Hand.load(fitted).offset)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_model_without_latent_recogniser_is_fitted_to_as_well(model, fit, tmp_path):
    pipeline = HandwritingPipeline.from_pretrained(model)
    pipeline.latent_recogniser = None
    pipeline.save_pretrained(tmp_path / "model")
    assert Hand.load(fit(init_from=tmp_path / "model")).offset.any()


def test_an_interrupted_fit_writes_nothing(fit, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("diffusion.hand_fitting.HandTrainer.train_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(target=tmp_path / "hands" / "me.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_rate_that_is_too_high_ends_with_a_message(fit):
    with pytest.raises(UserError, match=r"is not finite\. Give a lower --learning_rate"):
        fit("--learning_rate", 1e38)


# Alignment


def test_lines_are_aligned_where_the_models_training_was(model, fit, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffusion.alignment.LEAST_LIKELY", -1000.0)  # the recogniser knows nothing
    pipeline = HandwritingPipeline.from_pretrained(model)
    pipeline.config = replace(pipeline.config, extra={**pipeline.config.extra, "alignment": {"images": 9}})
    pipeline.save_pretrained(tmp_path / "model")
    assert Hand.load(fit(init_from=tmp_path / "model")).offset.any()
    assert "8 of 8 images aligned" in capsys.readouterr().out


# Several hands


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "several"
    make_word_folder(folder, WORDS[:12], ("ann", "bob/b"), img_size=IMG_SIZE)
    return folder


def test_a_folder_gets_a_hand_of_each_writer(fit, several):
    folder = fit(data=several, target="hands")
    assert sorted(path.name for path in folder.iterdir()) == ["ann.safetensors", "bob_b.safetensors"]
    ann, bob = (Hand.load(folder / f"{name}.safetensors") for name in ("ann", "bob_b"))
    assert not torch.equal(ann.style, bob.style) and not torch.equal(ann.offset, bob.offset)


def test_a_file_takes_one_writer(fit, several):
    with pytest.raises(UserError, match=r"2 writers \(ann, bob/b\)\. Name a folder"):
        fit(data=several)


def test_a_file_that_is_there_is_not_overwritten(fit, several, mine, tmp_path):
    (tmp_path / "ann.safetensors").write_text("mine")
    with pytest.raises(UserError, match=r"ann\.safetensors: exists already\. Remove it"):
        fit(data=mine, target=tmp_path / "ann.safetensors")
    with pytest.raises(UserError, match=r"ann\.safetensors: damaged, or not a hand"):
        fit(data=several, target=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ann.safetensors"]


def test_a_folder_that_was_begun_is_gone_on_with(fit, several, tmp_path, monkeypatch, capsys):
    steps = []
    train_step = HandTrainer.train_step

    def interrupt(trainer):
        steps.append(trainer.step)
        if len(steps) == 5:  # in the second hand
            raise KeyboardInterrupt
        return train_step(trainer)

    monkeypatch.setattr(HandTrainer, "train_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(data=several, target=tmp_path / "hands")
    (first,) = (tmp_path / "hands").iterdir()
    before = first.read_bytes()
    fit(data=several, target=tmp_path / "hands")
    assert first.read_bytes() == before and len(list((tmp_path / "hands").iterdir())) == 2
    assert f"is fitted already, and stays as it is: {first}" in capsys.readouterr().out


# What can't be fitted


def rewrite(source, folder, **changes):
    """A copy of a word folder's images with changed entries: lists, one value a line."""
    from shutil import copytree

    copytree(source, folder)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    for name, values in changes.items():
        for line, value in zip(lines, values, strict=False):
            line[name] = value
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_texts_that_the_model_cannot_spell_are_left_out_and_counted(mine, fit, tmp_path, capsys):
    data = rewrite(mine, tmp_path / "data", text=["caß", "ça", "deaf" * 3])
    fit(data=data)
    output = capsys.readouterr().out
    assert "left out: 3 of 8 images" in output and "ß ç" in output and "more than 8 characters" in output
    assert "from 5 images" in output


def test_only_images_to_train_on_are_fitted_to(mine, fit, tmp_path, capsys):
    fit(data=rewrite(mine, tmp_path / "data", split=["test", "val"]))
    assert "from 6 images" in capsys.readouterr().out


def test_texts_of_unknown_characters_alone_are_an_error(mine, fit, tmp_path):
    with pytest.raises(UserError, match=r"8 of 8 images .* Take other images"):
        fit(data=rewrite(mine, tmp_path / "data", text=["ß"] * 8))


def test_very_few_images_are_fitted_to_with_a_note(mine, fit, tmp_path, capsys):
    fit(data=rewrite(mine, tmp_path / "data", split=["test"] * 6))
    assert "'01' has 2 images; a hand needs 5" in capsys.readouterr().out


def test_many_images_get_a_note_that_training_the_model_comes_nearer(fit, monkeypatch, capsys):
    monkeypatch.setattr("diffusion.hand_fitting.MOST_IMAGES", 7)
    fit()
    assert "has 8 images; with more than 7, training of the whole model" in capsys.readouterr().out


def test_a_model_of_rows_is_refused(checkpoint, fit):
    with pytest.raises(UserError, match=r"--init_from .* knows its writers by name alone"):
        fit(init_from=checkpoint)


def test_images_of_another_height_are_refused(fit, tmp_path):
    make_word_folder(tmp_path / "high", WORDS[:6], ["a"], img_size=(64, 128))
    with pytest.raises(UserError, match="images of 64 pixels of height, but the model of --init_from has 32"):
        fit(data=tmp_path / "high")


@pytest.mark.parametrize(
    "flags",
    [
        ("--epochs", 3),
        ("--save_path", "x"),
        ("--resume",),
        ("--alignment",),
        ("--dataset", "me"),
        ("--compile",),
    ],
)
def test_flags_of_a_whole_training_are_refused(fit, flags, capsys):
    with pytest.raises(SystemExit):
        fit(*flags)
    assert f"{flags[0]} {flags[1] if len(flags) > 1 else True}: --fit_hand" in capsys.readouterr().err


def test_a_fit_needs_a_model(mine, capsys):
    with pytest.raises(SystemExit):
        run_script("train_diffusion", "--dataset_path", mine, "--fit_hand", "me.safetensors")
    assert "--fit_hand me.safetensors: needs --init_from" in capsys.readouterr().err


# Widths


def test_the_width_scale_is_the_median_of_the_texts_drawn_towards_1():
    model = WidthModel(character_widths={"a": 10.0, "b": 20.0}, writer_scales={}, left=0.0)
    records = [TextImage(file_name="x", text=text, writer="w") for text in ("ab", "bb", "aaaa", "b")]
    ink = np.array([[0, 0, 45, 9], [0, 0, 60, 9], [0, 0, 60, 9], [0, 0, 200, 9]], float)
    assert measure_width_scale(records, ink, model) == pytest.approx((4 * 1.5 + 2) / 6, abs=1e-3)
