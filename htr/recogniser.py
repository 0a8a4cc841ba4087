"""Recognisers behind one interface: word images to texts with confidences.

A CRNN that ``htr/train_htr.py`` trains, TrOCR and rapidocr. ``load_recogniser`` makes any of them from its
name.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from htr.dataset import crop_to_ink, make_batch
from utils.charset import Charset, normalise_text, order_along_line
from utils.checkpoint import CONFIG_NAME, load_described, save_described
from utils.errors import UserError
from utils.hub import find_model

FRAME = 4  # pixels along the line for each frame of the CRNN


@dataclass(frozen=True)
class Reading:
    """What a recogniser reads in a word image.

    Attributes:
        text: normalised (NFC, single spaces); may be empty.
        confidence: in [0, 1], the product of the probabilities of the word's characters, 0 where nothing is
            read. A character's is, for the CRNN, that of the surest frame of its run; for rapidocr, of the
            first frame of its run, rounded to 1e-5 (its own score is their mean); for TrOCR, of a token, the
            end of the text being one more.
    """

    text: str
    confidence: float


def frames_needed(text: str) -> int:
    """Frames that CTC needs for a text: one a character, and a blank between two equal ones."""
    return len(text) + sum(one == other for one, other in itertools.pairwise(text))


def decode_best_path(log_probs: Tensor, frames: Tensor, charset: Charset) -> list[Reading]:
    """The readings of (B, T, classes) log-probabilities, of which word i has the first ``frames[i]``; class 0
    is the blank.

    Source: Graves et al. 2006, https://doi.org/10.1145/1143844.1143891, section 3.2, best path decoding: the
    surest class of each frame, runs become one character, blanks go.
    """
    peaks, classes = (values.cpu().numpy() for values in log_probs.max(dim=-1))
    readings = []
    for peak, row, count in zip(peaks, classes, frames.tolist(), strict=True):
        starts = np.flatnonzero(np.diff(row[:count], prepend=-1))  # of runs
        is_character = row[starts] > 0
        sureness = np.maximum.reduceat(peak[:count].astype(np.float64), starts)[is_character]
        text = normalise_text(
            order_along_line("".join(charset.characters[i - 1] for i in row[starts][is_character]))
        )
        readings.append(Reading(text, float(np.exp(sureness.sum())) if text else 0.0))
    return readings


RECOGNISER_WEIGHTS_NAME = "recogniser.safetensors"
KIND = "recogniser"
CHOICES = (
    "rapidocr, trocr:FOLDER, trocr:HUB_ID (e.g. trocr:microsoft/trocr-base-handwritten), or a run of"
    " htr/train_htr.py"
)
DROPOUT = 0.2
TROCR_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
MAX_TOKENS = 64  # that TrOCR writes for a word


class Recogniser(Protocol):
    """Anything that reads word images; ``name`` is the one that it was loaded by."""

    name: str

    def read(self, images: Sequence[np.ndarray], *, batch_size: int = 64) -> list[Reading]:
        """Read (H, W) uint8 grey images, dark ink on white; what an image is batched with doesn't change its
        reading.
        """
        ...


# --- The CRNN ---


@dataclass(frozen=True)
class CRNNConfig:
    """What fixes a CRNN's tensors.

    Attributes:
        characters: that it can read; character i is class i + 1, class 0 is CTC's blank.
        img_height: of the images, pixels, a multiple of 16.
        channels: of the four levels of convolutions, of which each halves the height and the first two the
            width.
        hidden: units of an LSTM layer in each direction.
        layers: of the LSTM.
    """

    characters: tuple[str, ...]
    img_height: int
    channels: tuple[int, int, int, int] = (32, 64, 96, 128)
    hidden: int = 128
    layers: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "characters", tuple(self.characters))
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.img_height < 16 or self.img_height % 16:
            raise UserError(
                f"images of {self.img_height} pixels height; a recogniser needs a multiple of 16. Preprocess"
                " with --img_size 64 512."
            )


def _convolve(channels_in: int, channels_out: int, size: int, stride: tuple[int, int]) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


def _mask_padding(hidden: Tensor, widths: Tensor, full: int) -> Tensor:
    """(B, C, h, w) with zeros beyond each word's own share, ``widths[i] / full``, of the columns."""
    if bool((widths == full).all()):
        return hidden
    own = (widths * hidden.shape[-1] // full).to(hidden.device)
    return hidden * (torch.arange(hidden.shape[-1], device=hidden.device) < own[:, None, None, None])


class BidirectionalLSTM(nn.Module):
    """LSTM layers in both directions over sequences of several lengths, with normalisation before and behind
    each.

    Without the norms the features hardly move the first outputs, and CTC stays long at reading nothing. Two
    nn.LSTM a layer compute what a packed bidirectional one does, in about half of its time on a CPU: oneDNN
    takes none packed.
    """

    def __init__(self, channels: int, hidden: int, layers: int) -> None:
        super().__init__()
        sizes = [channels, *[2 * hidden] * (layers - 1)]
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.LSTM(size, hidden, batch_first=True) for _ in range(2)) for size in sizes
        )
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in [*sizes, 2 * hidden])

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, 2 * units) of (B, T, C); sequence i has ``lengths[i]`` steps, what is behind them changes
        nothing.
        """
        steps, lengths = (
            torch.arange(hidden.shape[1], device=hidden.device),
            lengths.to(hidden.device)[:, None],
        )
        order = torch.where(steps < lengths, lengths - 1 - steps, steps)[
            ..., None
        ]  # (B, T, 1): each sequence turned round
        hidden = self.norms[0](hidden)
        for (forward, backward), norm in zip(self.layers, self.norms[1:], strict=False):
            turned = backward(hidden.gather(1, order.expand(hidden.shape)))[0]
            turned = turned.gather(1, order.expand(turned.shape))
            hidden = F.dropout(norm(torch.cat([forward(hidden)[0], turned], dim=-1)), DROPOUT, self.training)
        return hidden


class CRNN(nn.Module):
    """Convolutions, a bidirectional LSTM along the line, and log-probabilities for CTC.

    Source: Shi et al. 2015, https://arxiv.org/abs/1507.05717; CTC: Graves et al. 2006,
    https://doi.org/10.1145/1143844.1143891. Strides replace pooling, which a CPU feels.
    """

    def __init__(self, config: CRNNConfig) -> None:
        super().__init__()
        self.config, self.charset = config, Charset(config.characters)
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

    def forward(self, pixel_values: Tensor, widths: Tensor) -> Tensor:
        """Log-probabilities of the characters along words.

        Args:
            pixel_values: (B, 1, H, W) in [-1, 1], ink dark on white; W a multiple of 16.
            widths: (B,) int64 pixels, multiples of 16: word i has the first ``widths[i] / 4`` frames. What
                lies right of it changes nothing.
        Returns:
            (B, T, characters + 1), T = W / 4; class 0 is the blank. Frames beyond a word's own mean nothing.
        """
        full = pixel_values.shape[-1]
        hidden = (1 - pixel_values) / 2  # white is 0, as the convolutions' padding is
        hidden = _mask_padding(hidden, widths, full).contiguous(memory_format=torch.channels_last)
        for convolution in self.convolutions:
            hidden = _mask_padding(convolution(hidden), widths, full)  # (B, C, h, w)
        hidden = F.relu(self.project(hidden.permute(0, 3, 1, 2).flatten(2)))  # (B, T, C)
        hidden = self.lstm(F.dropout(hidden, DROPOUT, self.training), widths // FRAME)  # (B, T, 2 * units)
        return self.head(hidden).float().log_softmax(dim=-1)  # (B, T, classes)

    def grow(self, characters: Iterable[str]) -> "CRNN":
        """A copy that also knows ``characters``: rows that are there stay, those of new characters are
        random.
        """
        new = sorted(set(characters) - set(self.config.characters))
        grown = CRNN(replace(self.config, characters=(*self.config.characters, *new)))
        state, rows = grown.state_dict(), self.charset.vocabulary_size
        for name, value in self.state_dict().items():
            (state[name][:rows] if name.startswith("head.") else state[name]).copy_(value)
        return grown

    def save_pretrained(self, folder: Path, extra: dict) -> None:
        """Write ``config.json`` and the weights; ``extra`` are further entries of the former."""
        save_described(self, folder, RECOGNISER_WEIGHTS_NAME, KIND, asdict(self.config), extra)

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


class CRNNRecogniser:
    """A CRNN as a ``Recogniser``."""

    def __init__(self, model: CRNN, name: str = "crnn") -> None:
        self.model, self.name = model, name

    @torch.inference_mode()
    def read(self, images: Sequence[np.ndarray], *, batch_size: int = 64) -> list[Reading]:
        """See ``Recogniser``; ValueError for images of another height than the one it was trained on."""
        height, crops = self.model.config.img_height, [crop_to_ink(image) for image in images]
        for crop in crops:
            if crop.shape[0] != height:
                raise UserError(
                    f"images of {crop.shape[0]} pixels height; this recogniser was trained on {height}"
                )
        is_training, device = self.model.training, self.model.head.weight.device
        self.model.eval()
        order = sorted(
            range(len(crops)), key=lambda i: crops[i].shape[1]
        )  # words of similar width share a batch
        readings: dict[int, Reading] = {}
        for rows in (order[start : start + batch_size] for start in range(0, len(order), batch_size)):
            pixel_values, widths = make_batch([crops[row] for row in rows])
            log_probs = self.model(pixel_values.to(device), widths)
            readings.update(
                zip(rows, decode_best_path(log_probs, widths // FRAME, self.model.charset), strict=True)
            )
        self.model.train(is_training)
        return [readings[i] for i in range(len(crops))]


# --- Pretrained recognisers ---


class RapidOCRRecogniser:
    """PP-OCR's recogniser through rapidocr, without detection: the weights come with the package."""

    def __init__(self, *, flag: str = "--recogniser") -> None:
        self.name = "rapidocr"
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise UserError(f"{flag} rapidocr: {error}. Run `pip install rapidocr onnxruntime`.") from error
        self.engine = RapidOCR(params={"Global.log_level": "critical"})

    def read(self, images: Sequence[np.ndarray], *, batch_size: int = 64) -> list[Reading]:
        """See ``Recogniser``; one image at a time, as PP-OCR pads a batch with grey to its widest, which
        changes readings.
        """
        readings = []
        for image in images:
            picture = np.repeat(crop_to_ink(image)[:, :, None], 3, axis=2)
            # The words' boxes bring the characters' probabilities; ``scores`` are only their means.
            result = self.engine(picture, use_det=False, use_cls=False, return_word_box=True)
            confidences = result.word_results[0].confs
            readings.append(Reading(normalise_text(result.txts[0]), float(np.prod(confidences))))
        return readings


class TrOCRRecogniser:
    """TrOCR through transformers, with greedy decoding. Source: Li et al. 2021,
    https://arxiv.org/abs/2109.10282.
    """

    def __init__(
        self, source: str, *, flag: str = "--recogniser", device: torch.device | str | None = None
    ) -> None:
        self.name = f"trocr:{source}"
        try:
            from transformers import GenerationConfig, TrOCRProcessor, VisionEncoderDecoderModel
        except ImportError as error:
            raise UserError(f"{flag} {self.name}: {error}. Run `pip install transformers`.") from error
        source, is_local = find_model(source, CONFIG_NAME, TROCR_WEIGHTS, label=f"{flag} {self.name}")
        try:
            self.processor = TrOCRProcessor.from_pretrained(source, local_files_only=is_local)
            self.model = VisionEncoderDecoderModel.from_pretrained(source, local_files_only=is_local)
        except ImportError as error:
            raise UserError(
                f"{flag} {self.name}: {error}. Run `pip install transformers sentencepiece`."
            ) from error
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            where = (
                "not readable as TrOCR"
                if is_local
                else "no such folder, and the hub has no TrOCR by this name"
            )
            raise UserError(f"{flag} {self.name}: {where} ({' '.join(str(error).split())[:200]})") from error
        self.model.to(device or "cpu").eval().requires_grad_(False)
        own = self.model.generation_config
        self.model.generation_config = GenerationConfig(
            max_new_tokens=MAX_TOKENS,
            bos_token_id=own.bos_token_id,
            eos_token_id=own.eos_token_id,
            pad_token_id=own.pad_token_id,
            decoder_start_token_id=own.decoder_start_token_id,
        )

    @torch.inference_mode()
    def read(self, images: Sequence[np.ndarray], *, batch_size: int = 64) -> list[Reading]:
        """See ``Recogniser``."""
        readings = []
        for start in range(0, len(images), batch_size):
            pictures = [
                np.repeat(crop_to_ink(image)[:, :, None], 3, axis=2)
                for image in images[start : start + batch_size]
            ]
            pixel_values = self.processor(images=pictures, return_tensors="pt").pixel_values.to(
                self.model.device
            )
            output = self.model.generate(pixel_values, output_logits=True, return_dict_in_generate=True)
            log_probs = (
                torch.stack(output.logits, dim=1).float().log_softmax(dim=-1)
            )  # (B, tokens, vocabulary)
            tokens = output.sequences[:, -log_probs.shape[1] :]
            # The first end of the text counts, the padding behind it doesn't.
            is_end = (tokens == self.model.generation_config.eos_token_id).long()
            is_own = is_end.cumsum(dim=1) - is_end == 0
            confidences = (log_probs.max(dim=-1).values * is_own).sum(dim=1).exp().tolist()
            texts = self.processor.batch_decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            texts = [normalise_text(text) for text in texts]
            readings += [
                Reading(text, confidence if text else 0.0)
                for text, confidence in zip(texts, confidences, strict=True)
            ]
        return readings


def load_recogniser(
    name: str, *, flag: str = "--recogniser", device: torch.device | str | None = None
) -> Recogniser:
    """The recogniser of a name.

    Args:
        name: ``rapidocr``; ``trocr:`` and a folder or Hugging Face id; or a folder: a run or checkpoint of
            ``htr/train_htr.py``.
        flag: the command line flag to name in messages.
        device: where it computes (default: CPU); rapidocr stays on the CPU.
    Raises:
        FileNotFoundError, ValueError: if there is none by this name, it can't be read, or a package is
            missing.
    """
    if name == "rapidocr":
        return RapidOCRRecogniser(flag=flag)
    if name.startswith("trocr:"):
        return TrOCRRecogniser(name.removeprefix("trocr:"), flag=flag, device=device)
    if not Path(name).is_dir():
        raise FileNotFoundError(f"{flag} {name}: no such folder, and not one of {CHOICES}")
    return CRNNRecogniser(CRNN.from_pretrained(name, flag=flag).to(device or "cpu"), name)
