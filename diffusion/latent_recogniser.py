"""A small recogniser of latents, and the loss that it gives a generator in training: can the text be read in
what it draws?

The squared error of a diffusion model counts each value of the latents alike; whether an a became an o is a
few of them. A recogniser that has learned real words from the same latents says which. Source of the idea:
the text perceptual loss of AnyText (Tuo et al. 2024, https://arxiv.org/abs/2311.03054, section 3.4), here
with CTC on latents, without decoding.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from utils.checkpoint import CONFIG_NAME, find_in_run, find_part, load_described, save_described
from utils.json_files import fill_dataclass
from utils.training import learning_rate_factor, make_generator

LATENT_RECOGNISER_FOLDER = "reader"  # of a run, and of its checkpoints
LATENT_RECOGNISER_WEIGHTS_NAME = "latent_reader.safetensors"
KIND = "latent_reader"
FRAMES = 2  # a column of latents
MAX_NOISE = 0.4  # share of noise in what the latent recogniser sees


@dataclass(frozen=True, kw_only=True)
class LatentRecogniserConfig:
    """What fixes the tensors of a latent recogniser.

    Attributes:
        vocabulary_size: classes, padding among them: id 0 is CTC's blank.
        latent_channels, latent_height: of the latents.
        channels: of the three levels of convolutions and of those along the line.
    """

    vocabulary_size: int
    latent_channels: int = 4
    latent_height: int = 8
    channels: tuple[int, int, int, int] = (64, 96, 128, 256)

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))


class LineBlock(nn.Module):
    """A residual convolution along the line."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.conv = nn.Conv1d(channels, channels, 5, padding=2)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, W) to the same."""
        return hidden + self.conv(F.silu(self.norm(hidden)))


class LatentRecogniser(nn.Module):
    """Convolutions alone: it sees two or three letters at a time, and so can't guess one from the word that
    it is in.
    """

    def __init__(self, config: LatentRecogniserConfig) -> None:
        super().__init__()
        self.config = config
        first, second, third, line = config.channels
        self.convolutions = nn.Sequential(
            nn.Conv2d(config.latent_channels, first, 3, padding=1),
            nn.GroupNorm(8, first),
            nn.SiLU(),
            nn.Conv2d(first, second, 3, stride=(2, 1), padding=1),
            nn.GroupNorm(8, second),
            nn.SiLU(),
            nn.Conv2d(second, third, 3, stride=(2, 1), padding=1),
            nn.GroupNorm(8, third),
            nn.SiLU(),
        )
        self.project = nn.Conv1d(third * -(-config.latent_height // 4), line, 1)
        self.line = nn.Sequential(*(LineBlock(line) for _ in range(3)))
        self.norm = nn.GroupNorm(1, line)
        self.head = nn.Conv1d(line, FRAMES * config.vocabulary_size, 1)

    def forward(self, latents: Tensor) -> Tensor:
        """Log-probabilities along words.

        Args:
            latents: (B, 4, h, W), scaled as the diffusion model sees them.
        Returns:
            (B, 2 W, vocabulary_size) float32; class 0 is the blank.
        """
        hidden = self.convolutions(latents).flatten(1, 2)  # (B, C * h / 4, W)
        hidden = self.line(self.project(hidden))
        logits = self.head(F.silu(self.norm(hidden)))  # (B, 2 * classes, W)
        logits = logits.unflatten(1, (FRAMES, -1)).permute(0, 3, 1, 2).flatten(1, 2)  # (B, 2 W, classes)
        return logits.float().log_softmax(dim=-1)

    def loss(self, latents: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """CTC losses of words.

        Args:
            input_ids: (B, L), padding is 0.
            lengths: (B,) characters of each text, on the CPU: a GPU's would have to be waited for.
        Returns:
            (B,) nats a character; 0 for texts that are too long for their columns.
        """
        log_probs = self(latents).transpose(0, 1)  # (T, B, classes)
        frames = torch.full_like(lengths, log_probs.shape[0])
        losses = F.ctc_loss(log_probs, input_ids, frames, lengths, reduction="none", zero_infinity=True)
        return losses / lengths.clamp_min(1).to(losses.device)

    def grow(self, vocabulary_size: int) -> "LatentRecogniser":
        """A copy that can learn to read more characters, whose ids follow those that it knows; to be
        trained.
        """
        old, grown = (
            self.config.vocabulary_size,
            LatentRecogniser(replace(self.config, vocabulary_size=vocabulary_size)),
        )
        state = grown.state_dict()
        for name, value in self.state_dict().items():
            if name.startswith("head."):
                state[name].unflatten(0, (FRAMES, -1))[:, :old] = value.unflatten(0, (FRAMES, -1))
            else:
                state[name].copy_(value)
        return grown

    def save_pretrained(self, folder: Path, *, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and the weights, optionally cast to ``dtype``."""
        save_described(
            self, folder, LATENT_RECOGNISER_WEIGHTS_NAME, KIND, asdict(self.config), {}, dtype=dtype
        )

    @classmethod
    def from_pretrained(cls, path: Path) -> "LatentRecogniser":
        """Load a latent recogniser, frozen.

        Raises:
            FileNotFoundError: if there is none; ValueError: if it is damaged.
        """
        return load_described(
            lambda config: cls(fill_dataclass(LatentRecogniserConfig, config, KIND)),
            path,
            LATENT_RECOGNISER_WEIGHTS_NAME,
            KIND,
            flag="--save_path",
            script="train_diffusion.py --recognition_weight",
        )


def find_latent_recogniser(models_path: Path) -> Path | None:
    """The folder of the latent recogniser that a checkpoint or a run (its newest checkpoint) brings, if it
    does.
    """
    part = find_part(models_path, LATENT_RECOGNISER_FOLDER)
    folder = find_in_run(part.parent, f"{LATENT_RECOGNISER_FOLDER}/{CONFIG_NAME}")
    return folder / LATENT_RECOGNISER_FOLDER if folder else None


def add_some_noise(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Mix noise into (B, 4, h, W) latents, each with its own share up to ``MAX_NOISE``.

    The latent recogniser learns from such latents and judges such ones, so that it can't be satisfied by
    details that nobody sees.
    """
    share = MAX_NOISE * torch.rand(len(latents), 1, 1, 1, device=latents.device, generator=generator)
    return (1 - share) * latents + share * torch.randn(
        latents.shape, device=latents.device, generator=generator
    )


def train_latent_recogniser(
    recogniser: LatentRecogniser,
    draw: Callable[[int], tuple[Tensor, Tensor, Tensor]],
    steps: int,
    *,
    seed: int,
    autocast: Callable,
    learning_rate: float = 1e-3,
) -> float:
    """Teach a latent recogniser real words.

    Args:
        draw: the (B, 4, h, W) latents, (B, L) ids and (B,) lengths of a step.
        autocast: makes the context of a forward pass.
    Returns:
        Mean loss of the last steps, nats a character.
    """
    device = next(recogniser.parameters()).device
    optimizer = torch.optim.AdamW(recogniser.parameters(), lr=learning_rate)
    recent: list[Tensor] = []
    for step in tqdm(range(steps), desc="latent recogniser", unit="step", leave=False):
        rate = learning_rate * learning_rate_factor(step, warmup_steps=50, horizon=steps, schedule="cosine")
        for group in optimizer.param_groups:
            group["lr"] = rate
        latents, *labels = draw(step)
        noisy = add_some_noise(latents, make_generator(device, seed, step, 0xEAD))
        with autocast():
            loss = recogniser.loss(noisy, *labels).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(recogniser.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = [*recent[-49:], loss.detach()]
    recogniser.eval().requires_grad_(False)
    return float(torch.stack(recent).mean()) if recent else float("nan")
