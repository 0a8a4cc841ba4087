"""Noise schedules and samplers: the whole chain, from timestep 0 on."""

import pytest
import torch

from diffusion.noise_schedule import (
    PREDICTION_TYPES,
    SCHEDULERS,
    RectifiedFlow,
    draw_noise,
    make_schedule,
    sample_latents,
)
from utils.training import make_generator

PAIRS = [
    (kind, name)
    for kind in PREDICTION_TYPES
    for name in SCHEDULERS
    if name != "euler" and (kind != "flow_prediction" or name in ("dpmsolver++", "unipc"))
]
PAIRS.append(("flow_prediction", "euler"))


def make_oracle(schedule, latents):
    """A denoiser that knows the clean latents, and answers in the schedule's terms."""

    def denoise(noisy_latents, timestep):
        if isinstance(schedule, RectifiedFlow):
            return (noisy_latents - latents) / (timestep / schedule.num_train_timesteps)
        alpha = schedule.noise_scheduler.alphas_cumprod[timestep]
        noise = (noisy_latents - alpha.sqrt() * latents) / (1 - alpha).sqrt()
        return (
            noise
            if schedule.prediction_type == "epsilon"
            else alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
        )

    return denoise


def make_noise(count=2):
    generators = [make_generator("cpu", 0, i) for i in range(count)]
    return draw_noise((4, 4, 8), generators, "cpu"), generators


def make_latents(count=2, scale=2.0):
    return scale * torch.randn(count, 4, 4, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("prediction_type", "name"), PAIRS)
def test_an_oracle_is_led_to_the_clean_latents(prediction_type, name):
    schedule, latents = make_schedule(prediction_type), make_latents()
    noise, generators = make_noise()
    sampled = sample_latents(
        make_oracle(schedule, latents), schedule.make_scheduler(name), noise, 20, generators
    )
    torch.testing.assert_close(sampled, latents, rtol=0, atol=0.02)


@pytest.mark.parametrize(("prediction_type", "name"), PAIRS)
def test_one_step_is_enough_for_an_oracle(prediction_type, name):
    schedule, latents = make_schedule(prediction_type), make_latents()
    noise, generators = make_noise()
    sampled = sample_latents(
        make_oracle(schedule, latents), schedule.make_scheduler(name), noise, 1, generators
    )
    torch.testing.assert_close(sampled, latents, rtol=0, atol=0.02)


@pytest.mark.parametrize(("prediction_type", "name"), PAIRS)
def test_latents_far_outside_the_pixels_range_are_not_clamped(prediction_type, name):
    schedule, latents = make_schedule(prediction_type), make_latents(scale=6.0)
    noise, generators = make_noise()
    sampled = sample_latents(
        make_oracle(schedule, latents), schedule.make_scheduler(name), noise, 20, generators
    )
    assert sampled.abs().max() > 0.99 * latents.abs().max() > 6


@pytest.mark.parametrize(("prediction_type", "name"), [pair for pair in PAIRS if pair[1] != "euler"])
def test_spacing_is_set_and_nothing_is_clipped(prediction_type, name):
    scheduler = make_schedule(prediction_type).make_scheduler(name)
    assert scheduler.config.timestep_spacing == "trailing" and not scheduler.config.get("clip_sample", False)


@pytest.mark.parametrize(("prediction_type", "name"), PAIRS)
def test_sampling_begins_at_pure_noise(prediction_type, name):
    scheduler = make_schedule(prediction_type).make_scheduler(name)
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] >= 999 and len(scheduler.timesteps) == 20


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_training_draws_every_timestep_from_0_to_999(prediction_type):
    drawn = make_schedule(prediction_type).draw_timesteps(20_000, "cpu", torch.Generator().manual_seed(0))
    assert sorted(set(drawn.tolist())) == list(range(1000))


def test_flow_timesteps_fill_their_range():
    drawn = make_schedule("flow_prediction").draw_timesteps(20_000, "cpu", torch.Generator().manual_seed(0))
    assert 0 < drawn.min() < 30 and 970 < drawn.max() < 1000


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_validation_timesteps_are_spread_over_the_range(prediction_type):
    spread = make_schedule(prediction_type).spread_timesteps(10, "cpu")
    assert spread.diff().tolist() == pytest.approx([100] * 9) and 0 <= spread[0] < 100


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_target_leads_back_to_the_clean_latents(prediction_type):
    schedule, latents = make_schedule(prediction_type), make_latents()
    timesteps = torch.tensor([0, 999])
    noisy_latents, target = schedule.add_noise(latents, make_noise()[0], timesteps)
    oracle = make_oracle(schedule, latents)
    for i in (0, 1) if prediction_type != "flow_prediction" else (1,):
        torch.testing.assert_close(oracle(noisy_latents, timesteps[i])[i], target[i], rtol=0, atol=2e-3)


def test_flow_at_timestep_0_is_the_clean_image():
    schedule, latents = make_schedule(), make_latents()
    noisy_latents, target = schedule.add_noise(latents, make_noise()[0], torch.zeros(2))
    assert torch.equal(noisy_latents, latents) and torch.equal(target, make_noise()[0] - latents)


def test_every_call_makes_a_fresh_scheduler():
    schedule, latents = make_schedule(), make_latents()

    def sample():
        return sample_latents(make_oracle(schedule, latents), schedule.make_scheduler("unipc"), *args)

    noise, generators = make_noise()
    args = (noise, 3, generators)
    assert torch.equal(sample(), sample())
    assert schedule.make_scheduler("unipc") is not schedule.make_scheduler("unipc")


@pytest.mark.parametrize(
    ("prediction_type", "name"),
    [("flow_prediction", "ddim"), ("flow_prediction", "ddpm"), ("epsilon", "euler"), ("epsilon", "heun")],
)
def test_a_scheduler_that_does_not_fit_is_refused_with_those_that_do(prediction_type, name):
    with pytest.raises(
        ValueError, match=f"--scheduler {name}: a model of {prediction_type} is sampled by dpmsolver"
    ):
        make_schedule(prediction_type).make_scheduler(name)


def test_an_unknown_prediction_type_is_refused():
    with pytest.raises(
        ValueError, match="--prediction_type sample: not one of epsilon, v_prediction, flow_prediction"
    ):
        make_schedule("sample")


def test_noise_is_the_same_at_any_batch_size():
    eight, _ = make_noise(8)
    assert torch.equal(draw_noise((4, 4, 8), [make_generator("cpu", 0, 5)], "cpu")[0], eight[5])


def test_ddpm_noise_on_the_way_is_the_same_at_any_batch_size():
    schedule, latents = make_schedule("epsilon"), make_latents(1).expand(4, -1, -1, -1)

    def sample(indices):
        generators = [make_generator("cpu", 0, i) for i in indices]
        noise = draw_noise((4, 4, 8), generators, "cpu")
        oracle = make_oracle(schedule, 0.3 * latents[: len(indices)] + 0.1)
        return sample_latents(
            lambda x, t: 0.5 * oracle(x, t), schedule.make_scheduler("ddpm"), noise, 5, generators
        )

    torch.testing.assert_close(sample([2])[0], sample([0, 1, 2, 3])[2])
