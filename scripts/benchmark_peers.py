"""The fastest published peers beside the model that ships: generators of one pass, written anew from their
descriptions at their published sizes, with random weights.

HiGAN+: Gan et al. 2022, "HiGAN+: Handwriting Imitation GAN with Disentangled Representations", ACM TOG 42(1).
VATr: Pippi et al. 2023, "Handwritten Text Generation from Visual Archetypes", https://arxiv.org/abs/2303.15269.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, islice, pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from diffusion.pipeline import HandwritingPipeline
from generation.jobs import JobList, jobs_of_texts
from generation.sampling import SamplingSettings, write_batches
from scripts.benchmark_rows import BenchmarkSettings, Row
from scripts.timing import time_interleaved
from utils.images import to_images
from utils.vocabulary import dictionary_words

SHIPPED_MODEL = Path(__file__).resolve().parents[1] / "models" / "demo"
CHARACTERS = 80  # of both alphabets: IAM's
HIGAN_PUBLISHED, VATR_PUBLISHED = "3.9 M", "none"  # parameters as the papers count them


class StyledNorm(nn.Module):
    """Batch normalisation whose scale and shift a style vector gives, as in BigGAN (Brock et al. 2019,
    https://arxiv.org/abs/1809.11096, appendix B); the statistics are those of training.
    """

    def __init__(self, channels: int, style_dim: int) -> None:
        super().__init__()
        self.scale = nn.Linear(style_dim, channels, bias=False)
        self.shift = nn.Linear(style_dim, channels, bias=False)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def forward(self, hidden: Tensor, style: Tensor) -> Tensor:
        """(B, C, H, W) and (B, style_dim) to (B, C, H, W)."""
        scale = (1 + self.scale(style)) / self.deviation  # (B, C)
        shift = self.shift(style) - self.mean * scale
        return torch.addcmul(shift[:, :, None, None], hidden, scale[:, :, None, None])


class StyledBlock(nn.Module):
    """BigGAN's residual block of a generator: two convolutions, the first behind the enlargement."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, enlarge: tuple[int, int]) -> None:
        super().__init__()
        self.enlarge = enlarge
        self.norm1 = StyledNorm(in_channels, style_dim)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = StyledNorm(out_channels, style_dim)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, hidden: Tensor, style: Tensor) -> Tensor:
        """(B, C_in, H, W) to (B, C_out, H * enlarge, W * enlarge)."""
        residual = F.interpolate(F.relu(self.norm1(hidden, style)), scale_factor=self.enlarge)
        residual = self.conv2(F.relu(self.norm2(self.conv1(residual), style)))
        return self.skip(F.interpolate(hidden, scale_factor=self.enlarge)) + residual


class HiganGenerator(nn.Module):
    """HiGAN+'s generator: each character, with the style, becomes 4x4 cells of a map; four blocks enlarge it
    to 64 x 32 pixels a character. Spectral normalisation is folded into the weights.
    """

    HEIGHT, CHARACTER_WIDTH = 64, 32

    def __init__(self, channels: int = 64, style_dim: int = 32, embedding: int = 120) -> None:
        super().__init__()
        widths = [channels * factor for factor in (8, 4, 2, 1, 1)]
        enlarge = ((2, 1), (2, 2), (2, 2), (2, 2))
        self.style_dim = style_dim
        self.embedding = nn.Embedding(CHARACTERS, embedding)
        self.cells = nn.Linear(embedding + style_dim, widths[0] * 16)
        self.styles = nn.Linear(style_dim, style_dim * len(enlarge))
        self.blocks = nn.ModuleList(
            StyledBlock(*pair, style_dim, by) for pair, by in zip(pairwise(widths), enlarge, strict=True)
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, ids: Tensor, style: Tensor) -> Tensor:
        """(B, L) characters in hands (B, style_dim) to (B, 1, 64, 32 L) pixels in [-1, 1]."""
        states = torch.cat([self.embedding(ids), style[:, None].expand(-1, ids.shape[1], -1)], dim=-1)
        cells = self.cells(states).unflatten(-1, (-1, 4, 4))  # (B, L, C, 4, 4)
        hidden = cells.permute(0, 2, 3, 1, 4).flatten(3)  # (B, C, 4, 4 L)
        styles = self.styles(style).chunk(len(self.blocks), dim=1)
        for block, of_block in zip(self.blocks, styles, strict=True):
            hidden = block(hidden, of_block)
        return torch.tanh(self.conv_out(F.relu(self.norm(hidden))))

    def draw_style(self, count: int) -> Tensor:
        """(count, style_dim) hands drawn at random, as the published model draws them."""
        return torch.randn(count, self.style_dim)


def reflected_conv(in_channels: int, out_channels: int, size: int) -> nn.Sequential:
    """A convolution, padded by reflection, and instance normalisation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, size, padding=size // 2, padding_mode="reflect"),
        nn.InstanceNorm2d(out_channels),
    )


class ReflectedBlock(nn.Module):
    """A residual block of two such convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (reflected_conv(channels, channels, 3) for _ in range(2))

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return hidden + self.conv2(F.relu(self.conv1(hidden)))


class VatrGenerator(nn.Module):
    """VATr's generator: a ResNet-18 and a transformer encode 15 word images of a hand; a transformer decoder,
    asked with the glyphs of the text, gives 4x2 cells a character; convolutions enlarge them to 32 x 16
    pixels a character.
    """

    HEIGHT, CHARACTER_WIDTH = 32, 16
    EXAMPLES, EXAMPLE_WIDTH, GLYPH = 15, 192, 256

    def __init__(self, channels: int = 512, heads: int = 8, layers: int = 3) -> None:
        super().__init__()
        self.backbone = resnet18(weights=None)
        self.backbone.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.backbone.avgpool, self.backbone.fc = nn.Identity(), nn.Identity()
        sizes = {"dim_feedforward": channels, "batch_first": True, "norm_first": True}
        encoder, decoder = nn.TransformerEncoderLayer, nn.TransformerDecoderLayer
        norms = [nn.LayerNorm(channels) for _ in range(2)]
        self.encoder = nn.TransformerEncoder(
            encoder(channels, heads, **sizes), layers, norms[0], enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(decoder(channels, heads, **sizes), layers, norms[1])
        self.register_buffer("glyphs", torch.rand(CHARACTERS, self.GLYPH))  # 16x16 pixels of a font
        self.queries = nn.Linear(self.GLYPH, channels)
        self.cells = nn.Linear(channels, channels * 8)
        widths = [channels // factor for factor in (1, 2, 4, 8)]
        self.blocks = nn.Sequential(*(ReflectedBlock(channels) for _ in range(2)))
        self.enlarge = nn.ModuleList(reflected_conv(*pair, 5) for pair in pairwise(widths))
        self.conv_out = nn.Conv2d(widths[-1], 1, 7, padding=3, padding_mode="reflect")

    def encode_hands(self, examples: Tensor) -> Tensor:
        """(B, 15, 32, 192) images of hands to (B, tokens, C)."""
        features = self.backbone(examples.flatten(0, 1)[:, None])  # (B * 15, 512 * 6), flattened
        tokens = features.unflatten(1, (512, -1)).unflatten(0, (len(examples), -1))
        return self.encoder(tokens.transpose(2, 3).flatten(1, 2))

    def forward(self, ids: Tensor, hands: Tensor) -> Tensor:
        """(B, L) characters in encoded hands to (B, 1, 32, 16 L) pixels in [-1, 1]."""
        states = self.decoder(self.queries(self.glyphs[ids]), hands)
        cells = self.cells(states).unflatten(-1, (-1, 4, 2))  # (B, L, C, 4, 2)
        hidden = self.blocks(cells.permute(0, 2, 3, 1, 4).flatten(3))  # (B, C, 4, 2 L)
        for conv in self.enlarge:
            hidden = F.relu(conv(F.interpolate(hidden, scale_factor=2)))
        return torch.tanh(self.conv_out(hidden))


def count_parameters(module: nn.Module) -> str:
    """In millions, as it is printed."""
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.1f} M"


# Writing
# ------------------------------------------------------------------------------------------------------------


def encode_texts(texts: Sequence[str], batch_size: int) -> list[Tensor]:
    """Batches of (B, L) ids. A batch holds texts of one length, as batches of the model that ships hold words
    of one width: nothing is padded.
    """
    batches = []
    for _, group in groupby(sorted(texts, key=len), key=len):
        of_length = list(group)
        for first in range(0, len(of_length), batch_size):
            batch = of_length[first : first + batch_size]
            ids = [[ord(character) % (CHARACTERS - 1) + 1 for character in text] for text in batch]
            batches.append(torch.tensor(ids))
    return batches


def write_by_peer(
    model: HiganGenerator | VatrGenerator,
    texts: Sequence[str],
    batch_size: int,
    hands_of: Callable[[int], Tensor],
) -> list[np.ndarray]:
    """A (HEIGHT, CHARACTER_WIDTH * length) uint8 image of each text, short ones first.

    Args:
        hands_of: the model's hands for a number of words.
    """
    images: list[np.ndarray] = []
    device = next(model.parameters()).device
    with torch.inference_mode():
        for ids in encode_texts(texts, batch_size):
            images += list(to_images(model(ids.to(device), hands_of(len(ids)).to(device))))
    return images


def plan_peers(
    higan: HiganGenerator, vatr: VatrGenerator, texts: Sequence[str]
) -> dict[str, Callable[[], list[np.ndarray]]]:
    """Calls that write texts in one batch, by label."""
    device = vatr.glyphs.device
    examples = torch.rand(1, vatr.EXAMPLES, vatr.HEIGHT, vatr.EXAMPLE_WIDTH, device=device) * 2 - 1
    with torch.inference_mode():
        known = vatr.encode_hands(examples)

    def repeat_known(count: int) -> Tensor:
        return known.expand(count, -1, -1)

    def encode(count: int) -> Tensor:
        return vatr.encode_hands(examples.expand(count, -1, -1, -1))

    plans = (
        ("HiGAN+", higan, HIGAN_PUBLISHED, "hands drawn at random", higan.draw_style),
        ("VATr", vatr, VATR_PUBLISHED, "hands encoded before", repeat_known),
        ("VATr", vatr, VATR_PUBLISHED, "a hand of 15 images encoded for each word", encode),
    )
    return {
        f"{describe(name, model, model.HEIGHT, published)}, {hand}, batch {len(texts)}": partial(
            write_by_peer, model, texts, len(texts), hands_of
        )
        for name, model, published, hand, hands_of in plans
    }


def describe(name: str, model: nn.Module, height: int, published: str = "") -> str:
    """A model's name, size and images' height."""
    size = f"{count_parameters(model)} parameters{published and f', published: {published}'}"
    return f"{name} ({size}; {height} pixels high)"


def benchmark_peers(settings: BenchmarkSettings) -> list[Row]:
    """Seconds a word of the peers and of the model that ships: the same dictionary words, a batch of each
    size, to images in memory, all in fp32.
    """
    device = settings.device
    shipped = HandwritingPipeline.from_pretrained(SHIPPED_MODEL)
    shipped.to(device)
    torch.manual_seed(0)
    peers = [peer().to(device).eval().requires_grad_(False) for peer in (HiganGenerator, VatrGenerator)]
    calls: dict[str, Callable[[], object]] = {}
    counts: dict[str, int] = {}
    for size in settings.batch_sizes or (1, 8, 32):
        texts = list(islice(dictionary_words(shipped.config.charset.characters, seed=0), size))
        jobs, how = jobs_of_texts(texts, None, shipped.config.writers), SamplingSettings(batch_size=size)
        own = f"{describe('models/demo', shipped.unet, shipped.config.img_size[0])}, batch {size}"
        planned = plan_peers(*peers, texts)
        planned[own] = partial(_write_shipped, shipped, jobs, how)
        calls |= planned
        counts |= dict.fromkeys(planned, size)
    timings = time_interleaved(calls, device, rounds=settings.rounds)
    rows = []
    for what, timing in timings.items():
        value, low, high = (seconds / counts[what] for seconds in (timing.median, timing.low, timing.high))
        rows.append(Row(part="peers", what=what, value=value, low=low, high=high, unit="s/word"))
    return rows


def _write_shipped(pipeline: HandwritingPipeline, jobs: JobList, how: SamplingSettings) -> None:
    for _ in write_batches(pipeline, jobs, how):
        pass
