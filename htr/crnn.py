"""The CRNN: convolutions and an LSTM over text images of any width, trained with CTC."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.charset import Charset
from utils.checkpoint import load_described, save_described
from utils.errors import UserError

FRAME = 4  # pixels along the line for each frame
RECOGNISER_WEIGHTS_NAME = "recogniser.safetensors"
KIND = "recogniser"
DROPOUT = 0.2


@dataclass(frozen=True, kw_only=True)
class CRNNConfig:
    """What fixes a CRNN's tensors.

    Attributes:
        characters: those that it can read; character i is class i + 1, class 0 is CTC's blank.
        img_height: height of the images in pixels, a multiple of 16.
        channels: output channels of the four levels of convolutions. Each level halves the height, the first
            two also halve the width.
        hidden: units of an LSTM layer in each direction.
        layers: number of LSTM layers.
        has_shortcut: whether a second output reads the convolutions' features without the LSTM; its loss
            teaches them in training, and it has no part in reading.
    """

    characters: tuple[str, ...]
    img_height: int
    channels: tuple[int, int, int, int] = (32, 64, 96, 128)
    hidden: int = 128
    layers: int = 2
    has_shortcut: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "characters", tuple(self.characters))
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.img_height < 16 or self.img_height % 16:
            raise UserError(
                f"images of {self.img_height} pixels height; a recogniser needs a multiple of 16. Let it"
                " scale them to such a height, e.g. --height 64."
            )


# Sizes of new recognisers. Source of the shortcut: Retsinas et al. 2022, https://arxiv.org/abs/2404.11339.
PRESETS: dict[str, dict] = {
    "small": {},
    "large": {"channels": (32, 64, 128, 160), "hidden": 192, "layers": 2, "has_shortcut": True},
}


def _convolve(channels_in: int, channels_out: int, size: int, stride: tuple[int, int]) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


def _mask_padding(hidden: Tensor, widths: Tensor, full: int) -> Tensor:
    """(B, C, h, w) feature maps with zeros in the columns that are padding: image i covers the share
    ``widths[i] / full`` of the columns.
    """
    if bool((widths == full).all()):
        return hidden
    columns = (widths * hidden.shape[-1] // full).to(hidden.device)
    return hidden * (torch.arange(hidden.shape[-1], device=hidden.device) < columns[:, None, None, None])


class BidirectionalLSTM(nn.Module):
    """LSTM layers in both directions over sequences of several lengths, with layer normalisation before the
    first layer and after each.

    Without the normalisation the first outputs hardly depend on the features, and CTC reads nothing for a
    long time. Each layer is two ``nn.LSTM``, one a direction: the result is that of a packed bidirectional
    LSTM, in about half of its time on a CPU, since oneDNN has no kernel for packed sequences.
    """

    def __init__(self, channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        sizes = [channels, *[2 * hidden] * (layers - 1)]
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.LSTM(size, hidden, batch_first=True) for _ in range(2)) for size in sizes
        )
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in [*sizes, 2 * hidden])

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, 2 * units) outputs of (B, T, C) features; sequence i has ``lengths[i]`` steps, and what
        comes after them changes nothing.
        """
        steps = torch.arange(hidden.shape[1], device=hidden.device)
        lengths = lengths.to(hidden.device)[:, None]
        # (B, T, 1): each sequence reversed, its padding left in place.
        order = torch.where(steps < lengths, lengths - 1 - steps, steps)[..., None]
        hidden = self.norms[0](hidden)
        for (forward, backward), norm in zip(self.layers, self.norms[1:], strict=False):
            reversed_ = backward(hidden.gather(1, order.expand(hidden.shape)))[0]
            reversed_ = reversed_.gather(1, order.expand(reversed_.shape))
            hidden = F.dropout(
                norm(torch.cat([forward(hidden)[0], reversed_], dim=-1)), DROPOUT, self.training
            )
        return hidden


class CRNN(nn.Module):
    """Convolutions, a bidirectional LSTM along the line, and log-probabilities for CTC.

    Source: Shi et al. 2015, https://arxiv.org/abs/1507.05717; CTC: Graves et al. 2006,
    https://doi.org/10.1145/1143844.1143891. Strides take the place of pooling, which saves time on a CPU.
    """

    def __init__(self, config: CRNNConfig) -> None:
        super().__init__()
        self.config, self.charset = config, Charset(characters=config.characters)
        first, *rest = config.channels
        convolutions, last = [_convolve(1, first, 5, (2, 2))], first
        for level, channels in enumerate(rest):
            convolutions += [
                _convolve(last, channels, 3, (2, 1 if level else 2)),
                _convolve(channels, channels, 3, (1, 1)),
            ]
            last = channels
        self.convolutions = nn.ModuleList(convolutions).to(memory_format=torch.channels_last)
        features = last * (config.img_height // 16)
        self.project = nn.Linear(features, 2 * last)
        self.lstm = BidirectionalLSTM(2 * last, config.hidden, config.layers)
        self.head = nn.Linear(2 * config.hidden, self.charset.vocabulary_size)
        if config.has_shortcut:
            self.shortcut = nn.Linear(2 * last, self.charset.vocabulary_size)

    def forward(self, pixel_values: Tensor, widths: Tensor) -> Tensor:
        """Log-probabilities of the characters along the line, as ``read_twice`` takes and gives them."""
        hidden = self._extract(pixel_values, widths)
        return self.head(self.lstm(hidden, widths // FRAME)).float().log_softmax(dim=-1)  # (B, T, classes)

    def read_twice(self, pixel_values: Tensor, widths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the characters along the line, and those of the shortcut if there is one.

        Args:
            pixel_values: (B, 1, H, W) in [-1, 1], ink dark on white; W a multiple of 16.
            widths: (B,) int64 pixels, multiples of 16: the first ``widths[i] / 4`` frames belong to image i.
                What lies right of it changes nothing.
        Returns:
            (B, T, characters + 1), T = W / 4; class 0 is the blank. Later frames of an image mean nothing.
        """
        hidden = self._extract(pixel_values, widths)  # (B, T, C)
        outputs = self.head(self.lstm(hidden, widths // FRAME)).float().log_softmax(dim=-1)
        if not self.config.has_shortcut:
            return outputs, None
        return outputs, self.shortcut(hidden).float().log_softmax(dim=-1)

    def _extract(self, pixel_values: Tensor, widths: Tensor) -> Tensor:
        """(B, T, C) features of the convolutions."""
        full = pixel_values.shape[-1]
        hidden = (1 - pixel_values) / 2  # white is 0, as the convolutions' padding is
        hidden = _mask_padding(hidden, widths, full).contiguous(memory_format=torch.channels_last)
        for convolution in self.convolutions:
            hidden = _mask_padding(convolution(hidden), widths, full)  # (B, C, h, w)
        hidden = F.relu(self.project(hidden.permute(0, 3, 1, 2).flatten(2)))  # (B, T, C)
        return F.dropout(hidden, DROPOUT, self.training)

    def grow(self, characters: Iterable[str]) -> "CRNN":
        """A copy that also has outputs for ``characters``: weights of known characters stay, those of new
        ones are random.
        """
        new = sorted(set(characters) - set(self.config.characters))
        grown = CRNN(replace(self.config, characters=(*self.config.characters, *new)))
        state, rows = grown.state_dict(), self.charset.vocabulary_size
        for name, value in self.state_dict().items():
            (state[name][:rows] if name.startswith(("head.", "shortcut.")) else state[name]).copy_(value)
        return grown

    def save_pretrained(self, folder: Path, extra: dict, *, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and the weights, optionally as ``dtype`` (see ``save_weights``).

        Args:
            extra: further entries of ``config.json``.
        """
        save_described(self, folder, RECOGNISER_WEIGHTS_NAME, KIND, asdict(self.config), extra, dtype=dtype)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, flag: str = "--recogniser") -> "CRNN":
        """Load a recogniser, in evaluation mode, on the CPU.

        Args:
            path: a folder that ``save_pretrained`` wrote, or a run of ``htr/train_htr.py`` (its best
                weights).
        Raises:
            FileNotFoundError: if there is none; ValueError: if it is damaged, or something else.
        """
        # Each checkpoint holds the best weights up to its step, so the newest one holds the run's best.
        return load_described(
            lambda config: cls(CRNNConfig(**config)),
            Path(path),
            RECOGNISER_WEIGHTS_NAME,
            KIND,
            flag=flag,
            script="htr/train_htr.py",
        )
