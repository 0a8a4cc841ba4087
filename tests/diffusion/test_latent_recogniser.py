"""The latent recogniser: it learns, it sees a few letters at a time, and its loss reaches the generator."""

import contextlib

import pytest
import torch

from diffusion.latent_recogniser import (
    LatentRecogniser,
    LatentRecogniserConfig,
    add_some_noise,
    find_latent_recogniser,
    train_latent_recogniser,
)
from diffusion.noise_schedule import PREDICTION_TYPES, make_schedule
from utils.training import make_generator


def make_reader(**changes):
    torch.manual_seed(0)
    return LatentRecogniser(LatentRecogniserConfig(vocabulary_size=5, channels=(8, 16, 16, 32), **changes))


def draw(step):
    """Latents in which each of four letters is a pattern of three columns."""
    generator = make_generator("cpu", step)
    patterns = torch.randn(5, 4, 8, 3, generator=make_generator("cpu", 99))
    input_ids = torch.randint(1, 5, (16, 4), generator=generator)
    latents = torch.cat([patterns[input_ids[:, i]] for i in range(4)], dim=-1)
    return latents, input_ids, torch.full((16,), 4)


def test_it_learns_to_read():
    recogniser = make_reader()
    latents, *labels = draw(1000)
    before = recogniser.loss(latents, *labels).mean()
    loss = train_latent_recogniser(
        recogniser, draw, 80, seed=0, autocast=contextlib.nullcontext, learning_rate=5e-3
    )
    assert loss < 0.5 * before and recogniser.loss(latents, *labels).mean() < 0.5 * before
    assert not recogniser.training and not any(p.requires_grad for p in recogniser.parameters())


def test_frames_and_classes():
    log_probs = make_reader()(torch.randn(2, 4, 8, 6))
    assert log_probs.shape == (2, 12, 5)
    torch.testing.assert_close(log_probs.exp().sum(dim=-1), torch.ones(2, 12))
    for height in (4, 6, 7):
        assert make_reader(latent_height=height)(torch.randn(2, 4, height, 6)).shape == (2, 12, 5)


def test_the_loss_is_of_each_word_and_ignores_padding():
    recogniser = make_reader()
    latents, *labels = draw(0)
    losses = recogniser.loss(latents, *labels)
    assert losses.shape == (16,) and (losses > 0).all()
    input_ids, lengths = labels
    padded = torch.nn.functional.pad(input_ids, (0, 3))
    torch.testing.assert_close(recogniser.loss(latents, padded, lengths), losses)
    too_long = input_ids.repeat(1, 9)
    assert (
        recogniser.loss(latents, too_long, 9 * lengths) == 0
    ).all()  # 36 letters in 24 frames: no path, no infinite loss


def test_its_gradient_reaches_the_latents():
    recogniser = make_reader()
    latents, *labels = draw(0)
    latents.requires_grad_(True)
    recogniser.loss(latents, *labels).mean().backward()
    assert latents.grad.abs().sum(dim=(1, 2, 3)).min() > 0


def test_noise_is_reproducible_and_bounded():
    latents = torch.zeros(64, 4, 8, 6)
    one, other = (add_some_noise(latents, make_generator("cpu", 3)) for _ in range(2))
    assert torch.equal(one, other)
    spread = one.flatten(1).std(dim=1)
    assert 0.1 < spread.mean() < 0.3 and spread.max() < 0.45


def test_it_is_saved_and_loaded(tmp_path):
    recogniser = make_reader()
    recogniser.save_pretrained(tmp_path)
    loaded = LatentRecogniser.from_pretrained(tmp_path)
    latents = torch.randn(2, 4, 8, 6)
    torch.testing.assert_close(loaded(latents), recogniser(latents))
    with pytest.raises(FileNotFoundError, match=r"no latent_reader\.safetensors"):
        LatentRecogniser.from_pretrained(tmp_path / "none")


def test_it_grows_by_characters_and_reads_the_old_ones_as_before():
    recogniser = make_reader()
    latents, *_ = draw(0)
    train_latent_recogniser(recogniser, draw, 20, seed=0, autocast=contextlib.nullcontext)
    grown = recogniser.grow(8)
    assert grown.config.vocabulary_size == 8 and all(p.requires_grad for p in grown.parameters())
    old, new = recogniser(latents), grown(latents)
    gaps = new[..., :5] - old  # one constant a frame: the new classes take their share of the probability
    torch.testing.assert_close(gaps, gaps[..., :1].expand_as(gaps), atol=1e-4, rtol=1e-4)


def test_it_is_found_in_a_checkpoint_and_in_a_run(tmp_path):
    assert find_latent_recogniser(tmp_path) is None
    make_reader().save_pretrained(tmp_path / "checkpoint" / "reader")
    assert find_latent_recogniser(tmp_path / "checkpoint") == tmp_path / "checkpoint" / "reader"
    (tmp_path / "run" / "step_00000002" / "reader").mkdir(parents=True)
    (tmp_path / "run" / "step_00000002" / "config.json").write_text("{}")
    assert find_latent_recogniser(tmp_path / "run") is None
    make_reader().save_pretrained(tmp_path / "run" / "step_00000002" / "reader")
    assert find_latent_recogniser(tmp_path / "run") == tmp_path / "run" / "step_00000002" / "reader"


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_right_prediction_implies_the_clean_latents(prediction_type):
    schedule = make_schedule(prediction_type)
    latents, noise = torch.randn(2, 8, 4, 4, 6, generator=make_generator("cpu", 0)).unbind(0)
    timesteps = schedule.spread_timesteps(8, torch.device("cpu"))
    noisy, target = schedule.add_noise(latents, noise, timesteps)
    prediction = noise if prediction_type == "epsilon" else target
    clean, share = schedule.predict_clean(noisy, prediction, timesteps)
    torch.testing.assert_close(clean[:6], latents[:6], atol=1e-3, rtol=1e-3)
    assert share.shape == (8,) and (share.diff() < 0).all() and share.min() > 0 and share.max() <= 1
