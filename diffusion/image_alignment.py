"""Forced alignment of images on disk by a checkpoint: where the characters of finished text images stand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from diffusion.alignment import Alignment, Peaks, align, columns_of_ink, find_gaps, find_peaks
from diffusion.autoencoder import vae_in_channels
from diffusion.dataset import encode_images
from diffusion.layout import CANVAS_STEP, canvas_widths
from diffusion.loading import Generator
from utils.charset import order_along_line
from utils.errors import UserError
from utils.images import measure_ink, stack_images
from utils.sources import read_images
from utils.text_images import TextImage

_POOL = 16  # batches that are read, and sorted by width, together
_MARGIN = 8  # pixels of white behind the ink, as in training


def check_can_align(generator: Generator, models_path: Path) -> None:
    """Raise a UserError if a checkpoint has no latent recogniser, or no width model."""
    if generator.latent_recogniser is None or generator.config.width_model is None:
        missing = "latent recogniser" if generator.latent_recogniser is None else "width model"
        raise UserError(
            f"--models_path {models_path}: has no {missing}, so borders between characters can't be found."
            " Take a model that train_diffusion.py made with --alignment, or with a --recognition_weight"
            " above 0."
        )


def align_images(
    generator: Generator,
    records: Sequence[TextImage],
    paths: Sequence[Path],
    *,
    device: torch.device,
    batch_size: int,
) -> Alignment:
    """Find the borders between the characters of text images; memory does not grow with their number, but for
    the borders.

    Args:
        generator: see ``check_can_align``.
        records: texts that are not empty, of characters that the model knows.
        paths: of the images, in the order of ``records``.
    Raises:
        UserError: if an image is damaged, or not of the model's height.
    """
    config = generator.config
    generator.latent_recogniser.to(device).eval()
    generator.vae.to(device)
    inks: list[np.ndarray] = []
    peaks: list[Peaks | None] = []
    pool = _POOL * batch_size
    with tqdm(total=len(records), desc="align", unit="image", leave=False) as bar:
        for start in range(0, len(records), pool):
            texts = [record.text for record in records[start : start + pool]]
            images = read_images(paths[start : start + pool], height=config.img_size[0])
            ink = measure_ink(images).numpy()
            canvases = canvas_widths(ink[:, 2], _MARGIN, CANVAS_STEP)
            found: dict[int, Peaks] = {}
            order = np.argsort(canvases, kind="stable")
            for rows in np.split(order, range(batch_size, len(order), batch_size)):
                canvas = stack_images([images[row] for row in rows], int(canvases[rows].max()))
                batch = [texts[row] for row in rows]
                peaks_of = _find(generator, canvas, batch, ink[rows], device)
                for row, peak in zip(rows.tolist(), peaks_of, strict=True):
                    found[row] = find_gaps(peak, columns_of_ink(images[row])) if peak.is_sure else peak
                bar.update(len(rows))
            inks.append(ink)
            peaks += [found[row] for row in range(len(images))]
    return align(records, np.concatenate(inks), peaks, config.width_model)


@torch.no_grad()
def _find(
    generator: Generator, canvas: torch.Tensor, texts: Sequence[str], ink: np.ndarray, device: torch.device
) -> list[Peaks]:
    """Peaks of the texts of (B, H, W) uint8 images."""
    moments = encode_images(generator.vae, canvas, vae_in_channels(generator.vae), device)
    along = [order_along_line(text) for text in texts]
    input_ids = generator.config.charset.encode(along, max(map(len, along))).to(device)
    return find_peaks(generator.latent_recogniser, moments[:, 0].float().to(device), input_ids, texts, ink)
