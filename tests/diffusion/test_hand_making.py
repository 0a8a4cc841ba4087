"""Hands made with a model: from lines, at random, mixed; and how far their drawings vary."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusion.hand_making import (
    draw_hand,
    hand_from_lines,
    measure_scales,
    mix_hands,
    predict_scales,
    read_line,
)
from diffusion.hands import add_hands
from diffusion.pipeline import HandwritingPipeline
from tests.helpers import IMG_SIZE, WRITERS, draw_word
from utils.errors import UserError

FAST = {"num_inference_steps": 2, "redraws": 0}


def draw_line(text, height=IMG_SIZE[0]):
    """(height, w) uint8, w a multiple of 8."""
    word = draw_word(text, font_size=20, margin=4)[:height]
    padding = ((0, height - len(word)), (0, -word.shape[1] % 8))
    return np.pad(word, padding, constant_values=255)


class Speller:
    """Stands for a latent recogniser: reads the same text everywhere."""

    def __init__(self, pipeline, text):
        self.ids = [pipeline.config.charset.characters.index(c) + 1 for c in text]
        self.size = pipeline.config.charset.vocabulary_size

    def __call__(self, latents):
        frames = [i for id_ in self.ids for i in (id_, id_, 0)] or [0]
        return F.one_hot(torch.tensor(frames), self.size)[None].float().expand(len(latents), -1, -1)


def with_recogniser(pipeline, recogniser):
    return HandwritingPipeline(
        pipeline.unet, pipeline.vae, pipeline.config, recogniser, pipeline.style_encoder
    )


# From lines


def test_a_hand_is_the_mean_vector_of_its_lines(styled_pipeline):
    lines = [draw_line("bead"), draw_line("cafe")]
    one, other = (hand_from_lines(styled_pipeline, [line]).style for line in lines)
    both = hand_from_lines(styled_pipeline, lines)
    weights = [line.shape[1] for line in lines]
    assert torch.allclose(both.style, F.normalize(weights[0] * one + weights[1] * other, dim=0), atol=1e-6)
    assert both.style.norm().item() == pytest.approx(1) and both.offset is None
    assert both.style_space == "abc"


def test_ink_twice_as_wide_as_expected_is_a_hand_twice_as_wide(styled_pipeline):
    model = styled_pipeline.config.width_model
    line = np.full(IMG_SIZE, 255, np.uint8)
    line[10:20, 4 : 4 + 2 * round(model.expected_width("beg"))] = 0
    pipeline = with_recogniser(styled_pipeline, Speller(styled_pipeline, "beg"))
    assert read_line(pipeline, line) == "beg"
    assert measure_scales(pipeline, [line]) == (pytest.approx(2, rel=0.05), 1.0)


@pytest.mark.parametrize("read", ["", "a"])
def test_where_nothing_is_read_the_width_follows_from_the_style(styled_pipeline, read):
    pipeline = with_recogniser(styled_pipeline, Speller(styled_pipeline, read))
    assert measure_scales(pipeline, [draw_line("bead")]) is None
    hand = hand_from_lines(pipeline, [draw_line("bead")])
    predicted = predict_scales(pipeline, hand.style)
    assert (hand.width_scale, hand.space_scale) == pytest.approx(predicted, abs=1e-4)


def test_width_scales_that_lie_in_the_style_are_predicted(styled_pipeline):
    generator = torch.Generator().manual_seed(0)
    names = tuple(f"w{i}" for i in range(40))
    styles = F.normalize(torch.randn(40, 6, generator=generator), dim=1)
    pipeline = replace_writers(styled_pipeline, names, styles, torch.exp(0.3 * styles[:, 0]).tolist())
    other = F.normalize(torch.randn(6, generator=generator), dim=0)
    assert predict_scales(pipeline, other) == (pytest.approx(float(torch.exp(0.3 * other[0])), rel=0.02), 1.0)


def replace_writers(pipeline, names, styles, scales):
    """A pipeline of these writers alone, for what looks at vectors and width scales."""
    model = replace(pipeline.config.width_model, writer_scales=dict(zip(names, scales, strict=True)))
    config = replace(pipeline.config, writers=names, width_model=model)
    other = HandwritingPipeline(pipeline.unet, pipeline.vae, config, None, pipeline.style_encoder)
    other.unet = type("Unet", (), {"writer_styles": styles})()
    return other


def test_a_model_of_rows_makes_no_hands(pipeline):
    with pytest.raises(UserError, match="knows its writers by name alone"):
        hand_from_lines(pipeline, [draw_line("bead")])
    with pytest.raises(UserError, match="knows its writers by name alone"):
        draw_hand(pipeline, 0)
    with pytest.raises(UserError, match="knows its writers by name alone"):
        mix_hands(pipeline, {WRITERS[0]: 1.0})


# At random


def test_new_hands_repeat_by_number_and_differ_by_it(styled_pipeline):
    first, again, other = (draw_hand(styled_pipeline, number) for number in (7, 7, 8))
    assert torch.equal(first.hand.style, again.hand.style) and first.nearest == again.nearest
    assert not torch.allclose(first.hand.style, other.hand.style, atol=0.01)
    assert first.hand.style.norm().item() == pytest.approx(1) and first.hand.width_scale > 0


def test_a_new_hand_is_not_nearer_to_a_trained_writer_than_they_are_to_each_other(styled_pipeline):
    styles = F.normalize(torch.randn(30, 6, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    names = tuple(f"w{i}" for i in range(30))
    pipeline = replace_writers(styled_pipeline, names, styles, [1.0] * 30)
    least = np.percentile(torch.cdist(styles, styles).fill_diagonal_(9).min(dim=1).values, 5)
    for number in range(20):
        new = draw_hand(pipeline, number)
        distances = (styles - new.hand.style).norm(dim=1)
        assert new.distance == pytest.approx(distances.min().item(), abs=1e-5)
        assert new.distance >= least and names[int(distances.argmin())] == new.nearest


def test_two_writers_are_too_few_for_a_third(styled_pipeline):
    styles = torch.eye(6)[:2]
    with pytest.raises(UserError, match="trained on 2 writers"):
        draw_hand(replace_writers(styled_pipeline, ("a", "b"), styles, [1.0, 1.0]), 0)


# Mixed


def test_a_mix_saved_as_a_hand_writes_what_the_mix_writes(styled_pipeline):
    shares = {WRITERS[0]: 0.25, WRITERS[2]: 0.75}
    hand = mix_hands(styled_pipeline, shares)
    unet, config = add_hands(styled_pipeline.unet, styled_pipeline.config, {"mixed": hand})
    joined = HandwritingPipeline(unet, styled_pipeline.vae, config)
    mixed = styled_pipeline(["bead"], [shares], variation=0.0, **FAST)
    saved = joined(["bead"], ["mixed"], variation=0.0, **FAST)
    assert np.abs(mixed.astype(int) - saved.astype(int)).max() <= 2


# Variation


def test_a_model_without_spread_writes_the_same_at_every_variation(pipeline):
    texts, writers = ["bead", "cafe"], ["01", None]
    images = [pipeline(texts, writers, variation=v, **FAST) for v in (0.0, 1.0, 3.0)]
    assert np.array_equal(images[0], pipeline(texts, writers, **FAST))
    assert np.array_equal(images[0], images[1]) and np.array_equal(images[1], images[2])


def test_drawings_vary_with_the_variation_around_the_hands_own(styled_pipeline):
    own = styled_pipeline.draw_styles(["01"] * 200)
    near, far = (
        styled_pipeline.draw_styles(["01"] * 200, variation=v, indices=range(200)) for v in (0.2, 1.0)
    )
    distances = [(styles - own).norm(dim=1).mean().item() for styles in (near, far)]
    assert torch.allclose(near.norm(dim=1), torch.ones(200), atol=1e-5) and 0 < distances[0] < distances[1]
    assert F.cosine_similarity(far.mean(dim=0), own[0], dim=0) > 0.95


def test_the_mean_hand_has_no_style_to_vary(styled_pipeline):
    assert not styled_pipeline.draw_styles([None, None], variation=1.0).any()


def test_a_drawing_follows_from_seed_and_number_alone(styled_pipeline):
    def draw(indices, seed=0):
        how = {"variation": 1.0, "seed": seed, "indices": indices}
        count = len(indices)
        return (
            styled_pipeline.draw_edges(["cab"] * count, ["01"] * count, **how),
            styled_pipeline.draw_styles(["01"] * count, **how),
        )

    (edges, styles), (later, other_styles), (other_seed, _) = draw([3, 4]), draw([4]), draw([4], seed=1)
    assert np.array_equal(edges[1], later[0]) and torch.equal(styles[1], other_styles[0])
    assert not np.array_equal(edges[0], edges[1]) and not np.array_equal(edges[1], other_seed[0])


def test_a_canvas_holds_the_widths_of_its_own_drawing(styled_pipeline):
    how = {"variation": 3.0, "indices": range(30)}
    edges = styled_pipeline.draw_edges(["abc"] * 30, ["01"] * 30, **how)
    widths = styled_pipeline.canvas_widths(["abc"] * 30, ["01"] * 30, **how)
    assert set(widths.tolist()) == {32, 64}
    assert all(borders[-1] <= width for borders, width in zip(edges, widths, strict=True))


def test_an_image_that_varies_does_not_depend_on_its_batch(styled_pipeline):
    texts, writers = ["cab", "abba", "dead", "face"], ["01", "02", "01", None]
    together = styled_pipeline(texts, writers, **FAST)
    alone = styled_pipeline([texts[2]], [writers[2]], indices=[2], **FAST)
    assert np.abs(alone[0].astype(int) - together[2].astype(int)).max() <= 2
    still = styled_pipeline(texts, writers, variation=0.0, **FAST)
    assert [np.array_equal(a, b) for a, b in zip(together, still, strict=True)] == [False] * 4
    assert np.array_equal(still, styled_pipeline(texts, writers, variation=0.0, **FAST))


def test_a_drawing_that_is_drawn_again_keeps_its_style_and_widths(styled_pipeline, monkeypatch):
    seen = []

    def remember(texts, writers, *scales, edges, styles):
        seen.append((edges[0].tolist(), styles[0].tolist()))
        return HandwritingPipeline.make_denoiser(
            styled_pipeline, texts, writers, *scales, edges=edges, styles=styles
        )

    monkeypatch.setattr(styled_pipeline, "make_denoiser", remember, raising=False)
    styled_pipeline(["cab"], ["01"], num_inference_steps=2, redraws=2)
    assert len(seen) == 3 and seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("variation", [-1.0, float("nan"), float("inf")])
def test_a_senseless_variation_is_refused(styled_pipeline, variation):
    with pytest.raises(UserError, match="variation"):
        styled_pipeline(["cab"], ["01"], variation=variation, **FAST)
