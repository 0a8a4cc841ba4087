"""From texts to images: guidance, hands, batches, and checkpoints."""

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusion.autoencoder import CompactAutoencoder, hash_vae
from diffusion.config import CheckpointConfig
from diffusion.latent_recogniser import LatentRecogniser, LatentRecogniserConfig
from diffusion.loading import find_checkpoint
from diffusion.noise_schedule import FULL_INTERVAL, SCHEDULERS, make_schedule
from diffusion.pipeline import HandwritingPipeline
from generation.jobs import choose_writers, jobs_of_texts
from tests.helpers import IMG_SIZE, WRITERS
from utils.charset import Charset
from utils.errors import UserError

TEXTS = ["cab", "zebra"]
FAST = {"num_inference_steps": 3}


def difference(one, other):
    return np.abs(one.astype(int) - other.astype(int))


def count_rows(pipeline, **options):
    """Rows of each call of the UNet while two words are written on one canvas."""
    rows = []
    hook = pipeline.unet.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    try:
        pipeline(["cab", "bac"], ["01", "01"], **FAST, **options)
    finally:
        hook.remove()
    return rows


# Images


def test_images_are_grey_and_of_the_trained_size(pipeline):
    images = pipeline(TEXTS, ["01", "02"], **FAST)
    assert images.shape == (2, *IMG_SIZE) and images.dtype == np.uint8 and images.std() > 5


def test_the_same_call_writes_the_same(pipeline):
    assert np.array_equal(pipeline(TEXTS, ["01", "02"], **FAST), pipeline(TEXTS, ["01", "02"], **FAST))


def test_another_seed_writes_another_variant(pipeline):
    assert difference(pipeline(["cab"], ["01"], **FAST), pipeline(["cab"], ["01"], seed=1, **FAST)).mean() > 1


def test_the_unet_is_not_given_padding_that_it_hides(pipeline, monkeypatch):
    config = replace(pipeline.unet.config, max_length=40)
    monkeypatch.setattr(pipeline.unet, "config", config)
    lengths = []
    hook = pipeline.unet.register_forward_pre_hook(
        lambda module, inputs: lengths.append((inputs[2].shape[1], inputs[4].shape[2]))
    )
    try:
        pipeline(["cab"], ["01"], **FAST)
    finally:
        hook.remove()
    assert set(lengths) == {(8, 8)}


@pytest.mark.parametrize("scheduler", ["dpmsolver++", "unipc", "euler"])
def test_an_image_does_not_depend_on_its_batch(pipeline, scheduler):
    texts, writers = ["cab", "zebra", "a", "hand"] * 2, [*WRITERS, None, *WRITERS, None]
    together = pipeline(texts, writers, scheduler=scheduler, **FAST)
    for i in (0, 5):
        alone = pipeline([texts[i]], [writers[i]], scheduler=scheduler, indices=[i], **FAST)
        assert difference(alone[0], together[i]).max() <= 2


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "euler"])
def test_every_scheduler_writes_with_a_noise_schedule(pipeline, name):
    config = replace(pipeline.config, schedule=make_schedule("v_prediction"))
    images = HandwritingPipeline(pipeline.unet, pipeline.vae, config)(
        TEXTS, ["01", None], scheduler=name, **FAST
    )
    assert images.shape == (2, *IMG_SIZE)


def test_half_precision_writes_nearly_the_same(pipeline):
    full = pipeline(TEXTS, ["01", "02"], **FAST)
    try:
        half = pipeline.to("cpu", torch.bfloat16)(TEXTS, ["01", "02"], **FAST)
    finally:
        pipeline.to("cpu")
    assert difference(full, half).mean() < 8


def test_null_text_can_be_written(pipeline):
    assert pipeline([""], ["01"], **FAST).std() > 5


def test_decomposed_letters_are_composed(pipeline):
    with pytest.raises(ValueError, match="'é' \\(in 'é'\\)"):
        pipeline(["e\u0301"], ["01"], **FAST)


def test_as_many_writers_as_texts_are_needed(pipeline):
    with pytest.raises(ValueError, match="2 texts for 1 writers"):
        pipeline(TEXTS, ["01"])


# Guidance


@pytest.mark.parametrize("changed", ["guidance_scale", "writer_guidance_scale"])
def test_each_guidance_scale_changes_the_image(pipeline, changed):
    scales = {"guidance_scale": 2.0, "writer_guidance_scale": 2.0}
    one, other = (pipeline(["cab"], ["01"], **(scales | {changed: value}), **FAST) for value in (2.0, 4.0))
    assert difference(one, other).mean() > 0.5


def test_the_writer_is_guided_as_the_text_by_default(pipeline):
    one = pipeline(["cab"], ["01"], guidance_scale=2.0, **FAST)
    other = pipeline(["cab"], ["01"], guidance_scale=2.0, writer_guidance_scale=2.0, **FAST)
    assert np.array_equal(one, other)


def test_without_guidance_one_branch_is_computed(pipeline):
    assert set(count_rows(pipeline, guidance_scale=1.0)) == {2}


def test_equal_scales_need_two_branches(pipeline):
    assert set(count_rows(pipeline, guidance_scale=3.0, guidance_interval=FULL_INTERVAL)) == {4}


def test_unequal_scales_need_three_branches(pipeline):
    rows = count_rows(
        pipeline, guidance_scale=3.0, writer_guidance_scale=1.0, guidance_interval=FULL_INTERVAL
    )
    assert set(rows) == {6}


def test_the_branches_have_neither_condition_then_the_text_then_both(pipeline):
    calls = []
    hook = pipeline.unet.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(args), with_kwargs=True
    )
    try:
        pipeline(
            ["cab"],
            ["02"],
            guidance_scale=3.0,
            writer_guidance_scale=2.0,
            num_inference_steps=1,
            guidance_interval=FULL_INTERVAL,
        )
    finally:
        hook.remove()
    _, _, input_ids, rows, layout, _, styles = calls[0]
    assert styles is None  # a model that knows its writers by their rows
    null_text, null_writer = [0] * 8, 3
    assert input_ids[0].tolist() == null_text and input_ids[1].tolist() == input_ids[2].tolist() != null_text
    assert rows[:, 0].tolist() == [null_writer, null_writer, 1]
    assert not layout[0].any() and layout[1].any() and torch.equal(layout[1], layout[2])


def test_a_step_is_one_call(pipeline):
    assert (
        len(count_rows(pipeline, guidance_scale=3.0, writer_guidance_scale=1.0))
        == FAST["num_inference_steps"]
    )


def test_two_branches_are_three_with_equal_scales(pipeline):
    equal = pipeline(TEXTS, ["01", "02"], guidance_scale=2.0, **FAST)
    nearly = pipeline(TEXTS, ["01", "02"], guidance_scale=2.0, writer_guidance_scale=2.0 + 1e-6, **FAST)
    assert difference(equal, nearly).max() <= 2


# Canvases


def test_words_are_written_on_the_canvases_that_hold_them(pipeline):
    widths = pipeline.canvas_widths(["a", "a" * 8], ["01", "01"])
    assert widths.tolist() == [32, 64]
    images = pipeline(["a", "a" * 8], ["01", "01"], **FAST)
    assert (
        images.shape == (2, *IMG_SIZE)
        and (images[0, :, 32:] == 255).all()
        and (images[1, :, 32:] != 255).any()
    )


def test_null_text_has_the_whole_canvas(pipeline):
    assert pipeline.canvas_widths([""], ["01"]).tolist() == [64]


def test_without_canvas_step_all_canvases_are_as_wide_as_the_images(pipeline):
    config = replace(pipeline.config, canvas_step=None)
    assert HandwritingPipeline(pipeline.unet, pipeline.vae, config).canvas_widths(
        ["a", "ab"], ["01", None]
    ).tolist() == [64, 64]


# Hands


def test_the_hand_changes_the_image(pipeline):
    assert difference(pipeline(["cab"], ["01"], **FAST), pipeline(["cab"], ["02"], **FAST)).mean() > 1


def test_a_mix_of_one_hand_is_that_hand(pipeline):
    assert difference(pipeline(["cab"], [{"01": 1.0}], **FAST), pipeline(["cab"], ["01"], **FAST)).max() <= 2


def test_a_mix_of_two_hands_differs_from_both(pipeline):
    mixed = pipeline(["cab"], [{"01": 0.5, "02": 0.5}], **FAST)
    for writer in ("01", "02"):
        assert difference(mixed, pipeline(["cab"], [writer], **FAST)).mean() > 1


def test_a_mix_is_the_same_at_every_step(pipeline):
    rows = []
    hook = pipeline.unet.writer_embedding.register_forward_hook(
        lambda module, inputs, output: rows.append(inputs[0].tolist())
    )
    try:
        pipeline(["cab"], [{"01": 0.5, "03": 0.5}], guidance_scale=1.0, **FAST)
    finally:
        hook.remove()
    assert rows == [[[0, 2]]] * FAST["num_inference_steps"]


def test_the_order_of_a_mix_does_not_matter(pipeline):
    one, other = (
        pipeline(["cab"], [{"01": 0.3, "02": 0.7}], **FAST),
        pipeline(["cab"], [{"02": 0.7, "01": 0.3}], **FAST),
    )
    assert difference(one, other).max() <= 2


def test_hands_and_mixes_stand_in_one_batch(pipeline):
    writers = ["01", {"02": 0.5, "03": 0.5}, None]
    together = pipeline(["cab"] * 3, writers, **FAST)
    for i, writer in enumerate(writers):
        assert difference(together[i], pipeline(["cab"], [writer], indices=[i], **FAST)[0]).max() <= 2


def test_the_mean_hand_is_a_hand_of_its_own(pipeline):
    mean = pipeline(["cab"], [None], **FAST)
    assert all(difference(mean, pipeline(["cab"], [writer], **FAST)).mean() > 1 for writer in WRITERS)


def test_random_hands_reach_every_row_and_no_other():
    jobs = jobs_of_texts(["a"], choose_writers(["random"], WRITERS), WRITERS, num_per_word=200)
    assert {job.writer for job in jobs} == set(WRITERS)


def test_an_unknown_hand_is_named_with_the_known_ones(pipeline):
    with pytest.raises(ValueError, match=r"writer '1' is not in this checkpoint\. It knows 3: 01, 02, 03"):
        pipeline(["cab"], ["1"])


def test_an_unknown_hand_in_a_mix_is_named(pipeline):
    with pytest.raises(ValueError, match="writer '04' is not"):
        pipeline(["cab"], [{"01": 0.5, "04": 0.5}])


def test_shares_must_sum_to_one(pipeline):
    with pytest.raises(ValueError, match=r"must sum to 1, not 0\.700"):
        pipeline(["cab"], [{"01": 0.5, "02": 0.2}])


def test_an_unknown_character_is_named_with_the_known_ones(pipeline):
    with pytest.raises(ValueError, match=r"'Q' \(in 'Qat'\) .*29 characters: ABZabc"):
        pipeline(["cab", "Qat"], ["01", "01"])


def test_a_text_that_is_too_long_is_an_error(pipeline):
    with pytest.raises(ValueError, match="'alphabets' has 9 characters; this checkpoint writes at most 8"):
        pipeline(["alphabets"], ["01"])


# Checkpoints


def test_a_saved_model_writes_the_same(pipeline, checkpoint):
    again = HandwritingPipeline.from_pretrained(checkpoint)
    assert np.array_equal(again(TEXTS, ["01", None], **FAST), pipeline(TEXTS, ["01", None], **FAST))


def test_the_config_survives_json(pipeline):
    written = json.loads(json.dumps(pipeline.config.to_dict(pipeline.unet.config)))
    config, unet_config = CheckpointConfig.from_dict(written)
    assert unet_config == pipeline.unet.config
    assert config.to_dict(unet_config) == pipeline.config.to_dict(unet_config)


def test_a_half_precision_export_loads_without_a_warning(pipeline, tmp_path):
    warnings = []
    pipeline.save_pretrained(tmp_path, dtype=torch.float16)
    again = HandwritingPipeline.from_pretrained(tmp_path, warn=warnings.append)
    assert warnings == [] and again.config.vae["hash"] == hash_vae(again.vae) != pipeline.config.vae["hash"]
    assert difference(again(TEXTS, ["01", "02"], **FAST), pipeline(TEXTS, ["01", "02"], **FAST)).mean() < 3


def test_a_half_precision_export_is_half_as_large(pipeline, checkpoint, tmp_path):
    pipeline.save_pretrained(tmp_path, dtype=torch.float16)
    for name in ("unet.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / name).stat().st_size < 0.65 * (checkpoint / name).stat().st_size
    assert next(pipeline.unet.parameters()).dtype == next(pipeline.vae.parameters()).dtype == torch.float32


def test_exported_files_can_be_read_by_others(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()} == {
        (tmp_path / "plain").stat().st_mode
    }


def test_a_vae_changed_after_training_is_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "changed")
    torch.manual_seed(9)
    CompactAutoencoder(block_out_channels=(16, 16), layers_per_block=1).save_pretrained(folder / "vae")
    with pytest.raises(ValueError, match=r"has changed since training\. Give the right one with --vae"):
        HandwritingPipeline.from_pretrained(folder)


def test_another_vae_given_on_purpose_is_a_warning(checkpoint, tmp_path):
    torch.manual_seed(9)
    CompactAutoencoder(block_out_channels=(16, 16), layers_per_block=1).save_pretrained(tmp_path)
    warnings = []
    HandwritingPipeline.from_pretrained(checkpoint, vae=tmp_path, warn=warnings.append)
    assert len(warnings) == 1 and "is not the VAE that this model was trained with" in warnings[0]


@pytest.fixture
def run(checkpoint, tmp_path):
    """A run of two whole checkpoints, a half-written one, and one without a config."""
    for name in ("step_00000002", "step_00000010", ".tmp-step_00000020-9", "step_00000030"):
        shutil.copytree(checkpoint, tmp_path / "run" / name)
    (tmp_path / "run" / "step_00000030" / "config.json").unlink()
    return tmp_path / "run"


def test_of_a_run_the_newest_whole_checkpoint_is_taken(run):
    assert find_checkpoint(run).name == "step_00000010"
    assert HandwritingPipeline.from_pretrained(run).config.writers == WRITERS


def test_a_folder_without_a_checkpoint_is_an_error_with_the_flag(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"--models_path .*no step_\* folder with config.json and unet.safetensors"
    ):
        HandwritingPipeline.from_pretrained(tmp_path)


def test_an_absent_folder_is_an_error_with_the_flag(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--models_path .*nowhere: no such folder"):
        HandwritingPipeline.from_pretrained(tmp_path / "nowhere")


def test_damaged_weights_are_named(run):
    weights = run / "step_00000010" / "unet.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"step_00000010: unet\.safetensors is damaged"):
        HandwritingPipeline.from_pretrained(run)


def test_a_damaged_config_is_named(run):
    (run / "step_00000010" / "config.json").write_text('{"unet": {')
    with pytest.raises(ValueError, match=r"step_00000010/config\.json: damaged"):
        HandwritingPipeline.from_pretrained(run)


def test_a_newer_format_is_refused(run):
    path = run / "step_00000010" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    with pytest.raises(ValueError, match="checkpoint format 99 is newer"):
        HandwritingPipeline.from_pretrained(run)


# Words that can't be read are drawn again


class LossReader:
    """Stands for a latent recogniser: gives the losses of a list, attempt by attempt."""

    def __init__(self, *attempts):
        self.attempts = list(attempts)

    def loss(self, latents, input_ids, lengths):
        losses = torch.tensor(self.attempts.pop(0))
        assert len(losses) == len(latents)
        return losses


@pytest.fixture
def with_reader(pipeline):
    """The pipeline with a latent recogniser of given losses, on one canvas."""

    def make(*attempts):
        return HandwritingPipeline(
            pipeline.unet, pipeline.vae, replace(pipeline.config, canvas_step=None), LossReader(*attempts)
        )

    return make


def test_only_words_that_cannot_be_read_are_drawn_again(with_reader):
    plain = with_reader()(TEXTS, ["01", "02"], redraws=0, **FAST)
    images = with_reader([0.0, 2.0], [0.05])(TEXTS, ["01", "02"], redraws=5, **FAST)
    assert difference(images[0], plain[0]).max() <= 2 and difference(images[1], plain[1]).mean() > 1


def test_the_drawing_that_is_read_best_is_kept(with_reader):
    plain = with_reader()(TEXTS, ["01", "02"], redraws=0, **FAST)
    images = with_reader([1.0, 2.0], [3.0, 1.0], [4.0, 1.5])(TEXTS, ["01", "02"], redraws=2, **FAST)
    assert difference(images[0], plain[0]).max() <= 2
    best = with_reader([1.0, 2.0], [3.0, 1.0])(TEXTS, ["01", "02"], redraws=1, **FAST)
    assert difference(images[1], best[1]).max() <= 2


def test_redraws_need_a_reader(pipeline):
    with pytest.raises(ValueError, match="--redraws 1: this model has no latent recogniser"):
        pipeline(TEXTS, ["01", "02"], redraws=1, **FAST)


def test_the_reader_meets_the_characters_in_their_order_along_the_line(pipeline):
    class Reader:
        def loss(self, latents, input_ids, lengths):
            self.input_ids = input_ids[:, :3].tolist()
            return torch.zeros(len(latents))

    hebrew = HandwritingPipeline(
        pipeline.unet,
        pipeline.vae,
        replace(pipeline.config, charset=Charset(characters=tuple("אבa"))),
        Reader(),
    )
    hebrew._reading_losses(torch.zeros(2, 4, 4, 8), ["אאב", "a"])
    assert hebrew.latent_recogniser.input_ids == [[2, 1, 1], [3, 0, 0]]


def test_the_reader_is_saved_along(pipeline, tmp_path):
    recogniser = LatentRecogniser(
        LatentRecogniserConfig(
            vocabulary_size=pipeline.config.charset.vocabulary_size, latent_height=4, channels=(8, 16, 16, 32)
        )
    )
    HandwritingPipeline(pipeline.unet, pipeline.vae, pipeline.config, recogniser).save_pretrained(tmp_path)
    loaded = HandwritingPipeline.from_pretrained(tmp_path).latent_recogniser
    latents = torch.randn(1, 4, 4, 8)
    assert torch.equal(loaded(latents), recogniser(latents))


def test_errors_name_the_flag_that_was_given(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^--init_from .*: no step_\* folder"):
        HandwritingPipeline.from_pretrained(tmp_path, flag="--init_from")


# What a checkpoint says of itself is checked


def change_config(checkpoint, target, **changes):
    """A copy of a checkpoint with entries of config.json changed; ``unet__x`` is the entry x of unet."""
    shutil.copytree(checkpoint, target)
    values = json.loads((target / "config.json").read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        entry = values
        for parent in parents:
            entry = entry[parent]
        if value is REMOVED:
            del entry[last]
        else:
            entry[last] = value
    (target / "config.json").write_text(json.dumps(values))
    return target


REMOVED = object()
WRONG = [
    ("charset", "ABZabcdefghijklmnopqrstuvwxy"),
    ("charset", "AABZabcdefghijklmnopqrstuvwxy"),
    ("charset", ["A"]),
    ("charset", 5),
    ("writers", ["01", "02"]),
    ("writers", ["01", "02", "02"]),
    ("writers", ["01", "02", 3]),
    ("writers", None),
    ("kind", "htr"),
    ("kind", 5),
    ("format_version", "1"),
    ("img_size", [32]),
    ("img_size", [32, 0]),
    ("img_size", [32, 63]),
    ("img_size", "32x64"),
    ("canvas_step", 0),
    ("canvas_step", "32"),
    ("vae", None),
    ("vae", {"name": "x"}),
    ("width_model", None),
    ("width_model", 5),
    ("width_model__left", "4"),
    ("width_model__character_widths", {}),
    ("width_model__character_widths", {"a": -1.0}),
    ("width_model__shape_scales", [1.0]),
    ("width_model__wings", 2),
    ("schedule", {}),
    ("schedule", None),
    ("schedule__prediction_type", "sample"),
    ("schedule__num_train_timesteps", 0),
    ("schedule__num_train_timesteps", 10**12),
    ("unet", None),
    ("unet", []),
    ("unet__wings", 2),
    ("unet__num_writers", REMOVED),
    ("unet__num_writers", "3"),
    ("unet__num_writers", 10**12),
    ("unet__vocabulary_size", 0),
    ("unet__max_length", 10**9),
    ("unet__max_length", -1),
    ("unet__model_channels", 64),
    ("unet__model_channels", 10**9),
    ("unet__model_channels", -32),
    ("unet__num_heads", 0),
    ("unet__num_heads", 3),
    ("unet__num_heads", True),
    ("unet__channel_mult", [1]),
    ("unet__channel_mult", [1, 10**9]),
    ("unet__text_layers", 10**9),
    ("unet__text_layers", 2),
    ("unet__text_layers", 1.5),
    ("unet__text_encoder", "huge"),
    ("unet__text_layout", False),
    ("unet__text_layout", "yes"),
    ("unet__layout_channels", 8),
    ("unet__attention_levels", [3]),
    ("unet__attention_levels", [2]),
    ("unet__pad_id", -1),
    ("unet__pad_id", 99),
    ("unet__latent_channels", 16),
    ("unet__has_null_condition", False),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_entry_of_the_config_is_named_before_the_unet_is_built(checkpoint, tmp_path, name, value):
    folder = change_config(checkpoint, tmp_path / "model", **{name: value})
    entry = name.split("__")[0].removesuffix("_version")
    with pytest.raises(UserError, match=rf"--models_path .*config\.json.*{entry}"):
        HandwritingPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", ["unet", "charset", "writers", "schedule", "img_size", "width_model", "vae"])
def test_a_missing_entry_of_the_config_is_named(checkpoint, tmp_path, name):
    folder = change_config(checkpoint, tmp_path / "model", **{name: REMOVED})
    with pytest.raises(UserError, match=rf"config\.json: no entry {name}"):
        HandwritingPipeline.from_pretrained(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff"])
def test_a_config_that_is_no_json_is_named(checkpoint, tmp_path, content):
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"--models_path: .*config\.json: "):
        HandwritingPipeline.from_pretrained(folder)


def test_a_decoder_that_is_not_finite_is_an_error_and_not_black_words(pipeline):
    vae = copy.deepcopy(pipeline.vae)
    with torch.no_grad():
        vae.autoencoder.decoder.conv_out.bias.fill_(torch.nan)
    broken = HandwritingPipeline(pipeline.unet, vae, pipeline.config)
    with pytest.raises(UserError, match="the VAE's decoder gives values that are not finite"):
        broken(["bead"], ["01"], num_inference_steps=1)


def test_a_batch_size_bounds_what_is_drawn_at_once_and_changes_no_image(pipeline, monkeypatch):
    texts, writers = ["bead", "cafe", "ab", "fade", "deed"], ["01", "02", "03", "01", None]
    whole = pipeline(texts, writers, num_inference_steps=2)
    sizes = []
    sample = HandwritingPipeline._sample

    def count(self, denoise, width, generators, *rest):
        sizes.append(len(generators))
        return sample(self, denoise, width, generators, *rest)

    monkeypatch.setattr(HandwritingPipeline, "_sample", count)
    parts = pipeline(texts, writers, num_inference_steps=2, batch_size=2)
    assert max(sizes) == 2 and sum(sizes) == 5
    assert np.abs(parts.astype(int) - whole).max() <= 1
    with pytest.raises(ValueError, match="batch_size 0: at least 1"):
        pipeline(texts, writers, batch_size=0)


@pytest.mark.parametrize("shares", [{"01": float("nan")}, {"01": 1.5, "02": -0.5}, {"01": 0.5, "02": 0.4}])
def test_the_shares_of_a_mix_are_0_to_1_and_sum_to_1(pipeline, shares):
    with pytest.raises(ValueError, match="a mix: the share"):
        pipeline.check(["cab"], [shares])
