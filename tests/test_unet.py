"""The denoiser: sizes, text and its padding, conditions, growth, and that it learns."""

import pytest
import torch
import torch.nn.functional as F

from diffusion.layout import layout_columns
from diffusion.noise_schedule import RectifiedFlow, draw_noise, sample_latents
from diffusion.presets import PRESETS, make_config
from tests.helpers import nudge_zeros
from unet import UNet, UNetConfig, attend, grow_unet
from utils.charset import Charset
from utils.training import make_generator

# At IAM's sizes: 339 writers, 52 letters, 10 positions.
PARAMETERS = {"wordstylist": 36_265_284, "base": 39_446_916, "small": 3_078_964, "tiny": 430_900}
OWN_PRESETS = [preset for preset in PRESETS if preset != "wordstylist"]
TEXT = torch.tensor([[3, 1, 2, 0, 0, 0], [5, 0, 0, 0, 0, 0]])


def make_unet(preset="tiny", **changes):
    sizes = {
        "num_writers": 3,
        "vocabulary_size": 8,
        "max_length": 6,
        "model_channels": 32,
        "num_heads": 2,
        "layout_channels": 8,
    }
    torch.manual_seed(0)
    return nudge_zeros(UNet(make_config(preset, **(sizes | changes))))


def make_inputs(unet, input_ids=TEXT):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(len(input_ids), 4, 4, 8, generator=generator)
    inputs = [latents, torch.tensor([10.0, 900.0]), input_ids, torch.tensor([0, 2])]
    if unet.config.text_layout:
        lengths = (input_ids > 0).sum(dim=1, keepdim=True)
        edges = torch.minimum(torch.arange(input_ids.shape[1] + 1), lengths) * 9.0 + 3.0
        inputs.append(layout_columns(edges, 8))
    return inputs


# Sizes


@pytest.mark.parametrize("preset", PARAMETERS)
def test_parameter_count_is_pinned(preset):
    with torch.device("meta"):
        unet = UNet(make_config(preset, num_writers=339, vocabulary_size=53, max_length=10))
    assert sum(parameter.numel() for parameter in unet.parameters()) == PARAMETERS[preset]


def test_no_preset_is_unpinned():
    assert set(PARAMETERS) == set(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_a_step(preset):
    unet = make_unet(preset)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    inputs, target = make_inputs(unet), torch.ones(2, 4, 4, 8)
    before = F.mse_loss(unet(*inputs), target)
    before.backward()
    optimizer.step()
    assert F.mse_loss(unet(*inputs), target) < before


@pytest.mark.parametrize("preset", OWN_PRESETS)
def test_no_weight_is_dead(preset):
    unet = make_unet(preset)
    unet(*make_inputs(unet)).square().sum().backward()
    # Not only rounding errors: where a norm takes out what a weight does, they are all that is left.
    assert [name for name, p in unet.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-4] == []


@pytest.mark.parametrize("preset", OWN_PRESETS)
@pytest.mark.parametrize(("changed", "value"), [(1, torch.tensor([500.0, 500.0])), (3, torch.tensor([1, 1]))])
@torch.no_grad()
def test_time_and_writer_change_the_prediction(preset, changed, value):
    unet = make_unet(preset)
    inputs = make_inputs(unet)
    before = unet(*inputs)
    inputs[changed] = value
    assert (unet(*inputs) - before).abs().mean() > 1e-3


@pytest.mark.parametrize("size", [(8, 32), (5, 7), (9, 32)])
def test_any_latent_size_comes_back(size):
    unet = make_unet(text_layout=False)
    assert unet(torch.zeros(2, 4, *size), torch.zeros(2), TEXT, torch.tensor([0, 1])).shape == (2, 4, *size)


def test_unfit_channels_are_refused():
    with pytest.raises(ValueError, match="model_channels 40 is not a multiple of 32"):
        UNetConfig(num_writers=1, vocabulary_size=2, max_length=1, model_channels=40)


def test_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="--preset huge: not one of wordstylist, base"):
        make_config("huge", num_writers=1, vocabulary_size=2, max_length=1)


def test_config_comes_back_from_its_dictionary():
    config = make_unet().config
    assert UNetConfig.from_dict(config.to_dict()) == config


def test_config_of_a_newer_version_is_refused():
    with pytest.raises(ValueError, match="unknown UNet fields \\['wings'\\]"):
        UNetConfig.from_dict(make_unet().config.to_dict() | {"wings": 2})


# Text and padding


@torch.no_grad()
def test_padding_has_no_effect_on_a_text():
    unet = make_unet()
    before = unet(*make_inputs(unet))
    unet.character_encoder.embedding.weight[0] += 5.0
    unet.layout_embedding.embedding.weight[0] += 5.0
    torch.testing.assert_close(unet(*make_inputs(unet)), before, rtol=0, atol=1e-5)


@torch.no_grad()
def test_length_of_the_padding_has_no_effect():
    unet = make_unet()
    short = unet(*make_inputs(unet, TEXT[:, :3]))
    torch.testing.assert_close(unet(*make_inputs(unet)), short, rtol=0, atol=1e-5)


def test_texts_need_few_positions_where_padding_is_hidden():
    config = make_unet(max_length=20).config
    assert [config.text_length(longest) for longest in (0, 1, 8, 9, 20)] == [8, 8, 8, 16, 20]
    assert make_unet(max_length=20, mask_padding=False).config.text_length(3) == 20


@torch.no_grad()
def test_null_text_is_a_learned_condition():
    unet = make_unet()
    null = make_inputs(unet, torch.zeros_like(TEXT))
    before = unet(*null)
    unet.character_encoder.embedding.weight[0] += 5.0 * torch.randn(32)
    after = unet(*null)
    assert after.isfinite().all() and (after - before).abs().max() > 1e-3


def test_only_the_first_position_of_a_null_text_is_visible():
    assert make_unet().attention_mask(torch.zeros(1, 4, dtype=torch.long)).tolist() == [
        [True, False, False, False]
    ]


def test_the_mask_shows_characters_and_the_first_position():
    assert make_unet().attention_mask(TEXT).sum(dim=1).tolist() == [3, 1]


@torch.no_grad()
def test_order_of_the_letters_matters():
    unet = make_unet(text_layout=False)
    one, other = unet(*make_inputs(unet)), unet(*make_inputs(unet, TEXT[:, [1, 0, 2, 3, 4, 5]]))
    assert (one[0] - other[0]).abs().max() > 1e-3


def test_a_text_longer_than_the_model_is_an_error():
    unet = make_unet(text_layout=False)
    with pytest.raises(ValueError, match="text of 7 positions; this model has 6"):
        unet(*make_inputs(unet, torch.zeros(2, 7, dtype=torch.long)))


def test_a_missing_layout_is_an_error():
    unet = make_unet()
    with pytest.raises(ValueError, match="layout must be given"):
        unet(*make_inputs(unet)[:4])


def test_a_layout_for_a_model_without_is_an_error():
    unet = make_unet(text_layout=False)
    with pytest.raises(ValueError, match="and to no other"):
        unet(*make_inputs(unet), torch.zeros(2, 2, 6, 8))


# Writers


@torch.no_grad()
def test_a_mix_of_one_hand_is_that_hand():
    unet = make_unet()
    inputs = make_inputs(unet)
    mixed = [*inputs[:3], torch.tensor([[0, 1], [2, 1]]), inputs[4]]
    torch.testing.assert_close(
        unet(*mixed, torch.tensor([[1.0, 0.0], [1.0, 0.0]])), unet(*inputs), rtol=0, atol=1e-5
    )


def test_a_model_without_null_has_no_null_writer():
    unet = make_unet("wordstylist")
    with pytest.raises(ValueError, match="without null conditions"):
        unet.config.null_writer_id  # noqa: B018
    assert unet.writer_embedding.weight.shape[0] == 3


# Growth


@pytest.fixture(scope="module")
def grown():
    unet = make_unet()
    return unet, grow_unet(unet, num_writers=5, vocabulary_size=10, max_length=4)


@torch.no_grad()
def test_a_grown_model_predicts_the_same(grown):
    unet, larger = grown
    torch.testing.assert_close(larger(*make_inputs(unet)), unet(*make_inputs(unet)), rtol=0, atol=1e-5)


def test_known_rows_keep_their_place(grown):
    unet, larger = grown
    assert torch.equal(larger.writer_embedding.weight[:3], unet.writer_embedding.weight[:3])
    assert torch.equal(
        larger.character_encoder.embedding.weight[:8], unet.character_encoder.embedding.weight[:8]
    )
    assert torch.equal(
        larger.layout_embedding.embedding.weight[:8], unet.layout_embedding.embedding.weight[:8]
    )


def test_the_null_writer_stays_the_last_row(grown):
    unet, larger = grown
    assert torch.equal(
        larger.writer_embedding.weight[larger.config.null_writer_id], unet.writer_embedding.weight[3]
    )


def test_new_rows_are_near_the_mean_and_differ(grown):
    unet, larger = grown
    known, new = unet.writer_embedding.weight[:3], larger.writer_embedding.weight[3:5]
    assert (new - known.mean(dim=0)).std() < 0.02 * known.std()
    assert not torch.equal(new[0], new[1])


def test_a_model_never_loses_positions(grown):
    assert grown[1].config.max_length == 6


def test_a_grown_model_can_be_trained(grown):
    assert all(parameter.requires_grad for parameter in grown[1].parameters())


# Learning


def make_toy_latents(words, generator):
    """(B, 4, 4, 8): an a is +1, a b is -1, each four columns wide, with a little noise."""
    signs = torch.tensor([[1.0 if c == "a" else -1.0 for c in word] for word in words])
    latents = signs.repeat_interleave(4, dim=1)[:, None, None].expand(-1, 4, 4, -1)
    return latents + 0.1 * torch.randn(latents.shape, generator=generator)


def test_a_tiny_model_learns_which_letter_goes_where():
    words, charset, schedule = ["ab", "ba", "aa", "bb"], Charset(characters=("a", "b")), RectifiedFlow()
    torch.manual_seed(0)
    unet = UNet(make_config("tiny", num_writers=1, vocabulary_size=3, max_length=2))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=3e-3)
    layout = layout_columns(torch.tensor([[0.0, 32.0, 64.0]]), 8).expand(16, -1, -1, -1)
    conditions = charset.encode(words * 4, 2), torch.zeros(16, dtype=torch.long), layout
    for step in range(80):
        generator = make_generator("cpu", 0, step)
        latents = make_toy_latents(words * 4, generator)
        timesteps = schedule.draw_timesteps(16, "cpu", generator)
        noise = torch.randn(latents.shape, generator=generator)
        noisy_latents, target = schedule.add_noise(latents, noise, timesteps)
        loss = F.mse_loss(unet(noisy_latents, timesteps, *conditions), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    generators = [make_generator("cpu", 1, i) for i in range(16)]
    noise = draw_noise((4, 4, 8), generators, "cpu")
    written = sample_latents(
        lambda latents, t: unet(latents, t.expand(16), *conditions),
        schedule.make_scheduler("euler"),
        noise,
        10,
        generators,
    )
    halves = written.unflatten(3, (2, 4)).mean(dim=(1, 2, 4))  # (16, 2): each letter's mean
    expected = torch.tensor([[1.0 if c == "a" else -1.0 for c in word] for word in words * 4])
    assert (halves * expected > 0.4).all()


@pytest.mark.parametrize("is_masked", [False, True])
def test_attention_in_training_is_the_attention_of_sampling(is_masked):
    q, k, v = (torch.randn(2, 3, length, 8) for length in (6, 5, 5))
    mask = torch.tensor([[True, True, False, True, False], [True] * 5])[:, None, None] if is_masked else None
    trained = attend(q.clone().requires_grad_(), k, v, mask)
    torch.testing.assert_close(trained, attend(q, k, v, mask), rtol=1e-5, atol=1e-6)


def test_attention_at_the_middle_alone_leaves_the_first_level_out():
    config = make_config("tiny", num_writers=2, vocabulary_size=5, max_length=4, attention_levels=(2,))
    names = {name.split(".")[0] for name in UNet(config).state_dict()}
    assert "mid_attention" in names and not names & {"down_attention1", "up_attention3", "up_attention4"}


def test_other_attention_levels_are_named():
    with pytest.raises(ValueError, match=r"attention_levels \(1,\): neither"):
        make_config("tiny", num_writers=2, vocabulary_size=5, max_length=4, attention_levels=(1,))
