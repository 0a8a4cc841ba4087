"""Guidance of a batch whose noise levels differ is the guidance that sampling has."""

import pytest
import torch

from diffusion.guided_prediction import Guidance, GuidedPrediction

TEXTS, WRITERS = ["cab", "bad", "ace", "feed"], ["01", "02", None, "03"]


def make_batch(pipeline, writers=WRITERS):
    torch.manual_seed(3)
    channels, height = pipeline.unet.config.latent_channels, pipeline.config.img_size[0] // 8
    styles = pipeline.draw_styles(writers)
    edges = pipeline.draw_edges(TEXTS, writers)
    return torch.randn(len(TEXTS), channels, height, 8), edges, styles


@pytest.mark.parametrize(("text", "writer"), [(3.0, 3.0), (3.0, 2.0), (1.0, 1.0)])
@pytest.mark.parametrize("levels", [(0.1, 0.5, 0.95, 0.25), (0.5, 0.6, 0.7, 0.8), (0.1, 0.95, 0.2, 1.0)])
def test_each_sample_has_the_guidance_of_its_noise_level(styled_pipeline, text, writer, levels):
    latents, edges, styles = make_batch(styled_pipeline)
    interval, seen = (0.25, 0.9), []
    denoise = styled_pipeline.make_denoiser(
        TEXTS, WRITERS, text, writer, 64, interval, edges=edges, styles=styles
    )
    expected = torch.stack(
        [denoise(latents, torch.tensor(1000 * level))[row] for row, level in enumerate(levels)]
    )

    def predict(latents, timesteps, *conditions):
        seen.append(len(latents))
        return styled_pipeline.unet(latents, timesteps, *conditions)

    guided = GuidedPrediction(
        predict,
        denoise.conditions,
        Guidance(text=text, writer=writer, interval=interval),
        styled_pipeline.unet.config,
        1000,
    )
    found = guided(latents, 1000 * torch.tensor(levels))
    assert torch.allclose(found, expected, atol=1e-4)
    inside = sum(0.25 <= level <= 0.9 for level in levels)
    branches = 0 if text == writer == 1 else 1 if text == writer else 2
    assert seen == [len(levels) + branches * inside]  # nothing is asked for in vain


def test_a_model_that_knows_writers_by_rows_alone_is_guided_too(pipeline):
    latents, edges, _ = make_batch(pipeline, ["01", "02", "03", "01"])
    denoise = pipeline.make_denoiser(TEXTS, ["01", "02", "03", "01"], 3.0, 3.0, 64, edges=edges)
    input_ids, rows, layout, _, _ = denoise.conditions
    guided = GuidedPrediction(
        pipeline.unet,
        (input_ids, rows[:, 0], layout),  # as a training has them
        Guidance(text=3.0, writer=3.0),
        pipeline.unet.config,
        1000,
    )
    level = torch.tensor(500.0)
    assert torch.allclose(guided(latents, level.expand(4)), denoise(latents, level), atol=1e-4)
