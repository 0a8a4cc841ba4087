"""Recognisers behind one interface: text images to texts with confidences.

A CRNN that ``htr/train_htr.py`` trains, TrOCR and rapidocr. ``load_recogniser`` makes any of them from its
name.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from htr.crnn import CRNN, FRAME
from htr.dataset import batch_by_width, crop_to_ink, make_batch, scale_to_height
from htr.reading import Reading, Recogniser, decode_best_path
from utils.charset import normalise_text
from utils.checkpoint import CONFIG_NAME
from utils.errors import UserError
from utils.hub import find_model

CHOICES = (
    "rapidocr, trocr:FOLDER, trocr:HUB_ID (e.g. trocr:microsoft/trocr-base-handwritten), or a run of"
    " htr/train_htr.py"
)
SHIPPED = str(Path(__file__).resolve().parents[1] / "models" / "recogniser")
TROCR_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
MAX_TOKENS = 128  # most that TrOCR writes for an image: a line of about 100 characters


class CRNNRecogniser:
    """A CRNN as a ``Recogniser``."""

    def __init__(self, model: CRNN, name: str = "crnn") -> None:
        self.model, self.name = model, name

    @torch.inference_mode()
    def read(self, images: Sequence[np.ndarray], *, batch_size: int = 64) -> list[Reading]:
        """See ``Recogniser``; images of any height are scaled to its own."""
        height = self.model.config.img_height
        crops = [crop_to_ink(scale_to_height(image, height)) for image in images]
        is_training, device = self.model.training, self.model.head.weight.device
        self.model.eval()
        readings: dict[int, Reading] = {}
        for rows in batch_by_width([crop.shape[1] for crop in crops], batch_size):
            pixel_values, widths = make_batch([crops[row] for row in rows])
            log_probs = self.model(pixel_values.to(device), widths)
            decoded = decode_best_path(log_probs, widths // FRAME, self.model.charset)
            readings.update(zip(rows, decoded, strict=True))
        self.model.train(is_training)
        return [readings[i] for i in range(len(crops))]


class RapidOCRRecogniser:
    """PP-OCR's recogniser through rapidocr, without its text detection; the weights come with the package."""

    def __init__(self, *, flag: str = "--recogniser") -> None:
        self.name = "rapidocr"
        # At import, onnxruntime would start its telemetry and write an id of this machine into the home.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        try:
            from rapidocr import RapidOCR
        except ImportError as error:
            raise UserError(f"{flag} rapidocr: {error}. Run `pip install rapidocr onnxruntime`.") from error
        self.engine = RapidOCR(params={"Global.log_level": "critical"})

    def read(self, images: Sequence[np.ndarray], *, batch_size: int = 64) -> list[Reading]:
        """See ``Recogniser``; one image at a time: PP-OCR would pad a batch with grey to its widest image,
        and read it differently.
        """
        readings = []
        for image in images:
            picture = np.repeat(crop_to_ink(image)[:, :, None], 3, axis=2)
            # Word boxes come with the probabilities of all characters; ``scores`` are only their mean.
            result = self.engine(picture, use_det=False, use_cls=False, return_word_box=True)
            confidences = result.word_results[0].confs
            text = normalise_text(result.txts[0])
            readings.append(Reading(text=text, confidence=float(np.prod(confidences))))
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
        published = self.model.generation_config
        longest = self.model.config.decoder.max_position_embeddings - 1
        # Greedy decoding, where the published settings search with beams.
        self.model.generation_config = GenerationConfig(
            max_new_tokens=min(MAX_TOKENS, longest),
            bos_token_id=published.bos_token_id,
            eos_token_id=published.eos_token_id,
            pad_token_id=published.pad_token_id,
            decoder_start_token_id=published.decoder_start_token_id,
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
            # (B, tokens, vocabulary)
            log_probs = torch.stack(output.logits, dim=1).float().log_softmax(dim=-1)
            tokens = output.sequences[:, -log_probs.shape[1] :]
            # The first end of the text counts, the padding after it doesn't.
            is_end = (tokens == self.model.generation_config.eos_token_id).long()
            is_text = is_end.cumsum(dim=1) - is_end == 0
            confidences = (log_probs.max(dim=-1).values * is_text).sum(dim=1).exp().tolist()
            texts = self.processor.batch_decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            texts = [normalise_text(text) for text in texts]
            readings += [
                Reading(text=text, confidence=confidence if text else 0.0)
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
    if not Path(name).is_dir() and name == SHIPPED:
        raise FileNotFoundError(f"{flag}: the program's own, {SHIPPED}, is missing. Name another: {CHOICES}")
    if not Path(name).is_dir():
        raise FileNotFoundError(f"{flag} {name}: no such folder, and not one of {CHOICES}")
    return CRNNRecogniser(CRNN.from_pretrained(name, flag=flag).to(device or "cpu"), name)
