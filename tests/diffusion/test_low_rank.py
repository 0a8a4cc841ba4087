"""Weights of a hand's own: added while it is drawn, and nothing of them left for others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from diffusion.hand_making import mix_hands, with_hands
from diffusion.hands import Hand, hand_of_writer
from diffusion.low_rank import HandWeights, attach, detach, hand_weights_of, misfit, mix_low_rank
from generation.hands import Hands
from tests.helpers import WRITERS
from utils.errors import UserError


def make_model():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"conv": nn.Conv2d(8, 8, 3, padding=1), "linear": nn.Linear(8, 6), "time_embedding": nn.Linear(8, 8)}
    )


def make_weights(seed=0, rank=2):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(rank, size, generator=generator), torch.randn(out, rank, generator=generator))
        for name, out, size in (("conv.weight", 8, 72), ("linear.weight", 6, 8))
    }


def weights_of(model):
    return {name: value.clone() for name, value in model.named_parameters()}


def are_equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_attached_starts_as_nothing_and_alone_is_trained():
    model = make_model().requires_grad_(False)
    before, images = weights_of(model), torch.randn(1, 8, 4, 4)
    expected = model["conv"](images)
    attach(model, 2, seed=0)
    assert torch.equal(model["conv"](images), expected)
    model["conv"](images).square().sum().backward()
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    assert {name.rpartition(".")[2] for name in trained} == {"down", "up"}
    taken = detach(model)
    assert are_equal(before, weights_of(model))
    assert {name: [tuple(part.shape) for part in pair] for name, pair in taken.items()} == {
        "conv.weight": [(2, 72), (8, 2)],
        "linear.weight": [(2, 8), (6, 2)],
    }


def test_a_rank_that_saves_nothing_leaves_a_layer_out():
    model = make_model()
    attach(model, 4, seed=0)
    assert list(detach(model)) == ["conv.weight"]


def test_weights_are_added_by_their_shares_and_taken_away_exactly():
    model, one, other = make_model(), make_weights(1), make_weights(2)
    before, weights = weights_of(model), HandWeights({0: one, 3: other})
    weights.apply(model, weights.key({0: 0.25, 3: 0.75, 5: 1.0}))
    down, up = one["linear.weight"]
    down2, up2 = other["linear.weight"]
    expected = before["linear.weight"] + 0.25 * up @ down + 0.75 * up2 @ down2
    assert torch.allclose(model["linear"].weight, expected, atol=1e-6)
    weights.apply(model, weights.key({3: 1.0}))
    assert torch.allclose(model["linear"].weight, before["linear.weight"] + up2 @ down2, atol=1e-6)
    weights.apply(model, weights.key({7: 1.0}))
    assert are_equal(before, weights_of(model))


def test_a_mix_is_the_sum_of_the_shares():
    one, other = make_weights(1), make_weights(2, rank=3)
    down, up = mix_low_rank([(one, 0.25), (other, 0.75)])["conv.weight"]
    pairs = [(one["conv.weight"], 0.25), (other["conv.weight"], 0.75)]
    assert torch.allclose(up @ down, sum(share * b @ a for (a, b), share in pairs), atol=1e-5)


def test_weights_of_another_model_do_not_fit():
    assert misfit(make_weights(), make_model()) is None
    assert misfit({"conv.weight": (torch.ones(1, 9), torch.ones(8, 1))}, make_model()) == "conv.weight"
    assert misfit({"gone.weight": (torch.ones(1, 9), torch.ones(8, 1))}, make_model()) == "gone.weight"


# In a pipeline


def make_hand(pipeline, seed=0, scale=0.3):
    """A hand like a writer of the model, with weights of its own."""
    hand = hand_of_writer(pipeline.unet, pipeline.config, WRITERS[0])
    generator = torch.Generator().manual_seed(seed)
    weight = pipeline.unet.mid_block1.conv1.weight
    pair = (
        torch.randn(2, weight[0].numel(), generator=generator),
        torch.randn(len(weight), 2, generator=generator),
    )
    return replace(hand, low_rank={"mid_block1.conv1.weight": tuple(scale * part for part in pair)})


@pytest.fixture(scope="module")
def known(styled_pipeline):
    """A pipeline that knows two hands with weights of their own, and one that has its vector alone."""
    hands = {name: make_hand(styled_pipeline, seed) for seed, name in enumerate(("mine", "yours"))}
    plain = replace(hands["mine"], low_rank={})
    return with_hands(styled_pipeline, hands | {"plain": plain})


def draw(pipeline, writers, **options):
    return pipeline(
        ["bead"] * len(writers), writers, num_inference_steps=2, indices=[0] * len(writers), **options
    )


def test_hands_of_one_batch_are_drawn_each_with_its_own_weights(known, styled_pipeline):
    writers = ["mine", WRITERS[1], "yours", "plain", "mine"]
    together = draw(known, writers)
    for row, writer in enumerate(writers):
        assert np.array_equal(together[row], draw(known, [writer])[0])
    assert np.array_equal(together[1], draw(styled_pipeline, [WRITERS[1]])[0])
    assert np.array_equal(together[0], together[4])
    assert all(not np.array_equal(together[0], together[row]) for row in (2, 3))


def test_a_mix_saved_as_a_hand_has_the_weights_of_its_parts(known):
    shares = {"mine": 0.25, "yours": 0.75}
    mixed = with_hands(known, {"mix": mix_hands(known, shares)})
    assert np.abs(draw(mixed, ["mix"]).astype(int) - draw(mixed, [shares]).astype(int)).mean() < 1
    assert not np.array_equal(draw(mixed, ["mix"]), draw(mixed, ["plain"]))


def test_a_hand_keeps_its_weights_in_its_file_and_in_the_model(known, styled_pipeline, tmp_path):
    hand = hand_of_writer(known.unet, known.config, "mine")
    hand.save(tmp_path / "mine.safetensors")
    loaded = Hand.load(tmp_path / "mine.safetensors")
    again = with_hands(styled_pipeline, {"again": loaded})
    differences = np.abs(draw(again, ["again"]).astype(int) - draw(known, ["mine"]).astype(int))
    assert differences.mean() < 0.1  # the file has 16 bits
    prints = [Hands(writer=None, mix=None, added={"": one}).fingerprints() for one in (hand, loaded)]
    assert prints[0] == prints[1]


def test_a_hand_whose_weights_fit_another_model_is_refused(styled_pipeline):
    hand = replace(
        make_hand(styled_pipeline), low_rank={"conv_in.weight": (torch.ones(1, 5), torch.ones(9, 1))}
    )
    with pytest.raises(UserError, match="another size"):
        with_hands(styled_pipeline, {"mine": hand})


def test_a_file_with_half_of_the_weights_is_damaged(styled_pipeline, tmp_path):
    path = tmp_path / "mine.safetensors"
    make_hand(styled_pipeline).save(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.endswith(".up")}  # noqa: SIM118
        save_file(tensors, tmp_path / "half.safetensors", file.metadata())
    with pytest.raises(UserError, match="damaged"):
        Hand.load(tmp_path / "half.safetensors")


def test_a_model_with_fitted_hands_is_not_saved_as_a_checkpoint(known, tmp_path):
    with pytest.raises(UserError, match="Save the hands"):
        known.save_pretrained(tmp_path / "model")
    assert hand_weights_of(known.unet).rows
