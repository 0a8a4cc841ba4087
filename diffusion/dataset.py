"""What a training step is made of: cached latents of all images, and their conditions."""

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffusion.autoencoder import scale_latents
from diffusion.layout import CANVAS_STEP, COLUMN, WidthModel, canvas_widths, layout_columns, pad_edges
from utils.charset import Charset, order_along_line
from utils.errors import UserError
from utils.images import measure_ink, to_pixel_values
from utils.sources import read_images
from utils.text_images import TextImage

CACHE_FOLDER = ".latent_cache"
_VERSION = 2
_POOL = 16  # batches that are sorted by width together
_MARGIN = 8  # pixels of white behind the ink that are encoded with it


class LatentCache:
    """Posterior means and standard deviations of all images of a training set, on disk, memory-mapped.

    Attributes:
        moments: (N, 2, 4, H/8, W/8) float16, scaled as the diffusion model sees them: [:, 0] means, [:, 1]
            deviations.
        ink: (N, 4) float32, left, top, right, bottom of the ink in pixels.
    """

    def __init__(self, folder: Path) -> None:
        # Copy-on-write, and never written: torch warns of read-only arrays.
        self.moments = np.load(folder / "moments.npy", mmap_mode="c")
        self.ink = np.load(folder / "ink.npy")


class RowReader:
    """Rows of a memory-mapped array that may be larger than memory, read in random order without waiting for
    the disk.

    By itself a system reads much around each row, which fills memory with what is not asked for. Of an array
    in memory, and where a system can't be told, nothing is different.

    Args:
        rows: (N, …) as ``np.load(…, mmap_mode=…)`` gives it.
    """

    def __init__(self, rows: np.ndarray) -> None:
        mapped = isinstance(rows.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM")  # not on Windows
        self.mapping, self.row_bytes = rows.base if mapped else None, rows.nbytes // max(1, len(rows))
        # Not all of the file: the array's header is before its rows.
        self.offset = len(rows.base) - rows.nbytes if mapped else 0
        if mapped:
            self.mapping.madvise(mmap.MADV_RANDOM)

    def prefetch(self, indices: Sequence[int]) -> None:
        """Have these rows read from disk while something else is computed."""
        if self.mapping is not None:
            for index in indices:
                first = self.offset + index * self.row_bytes
                start = first - first % mmap.PAGESIZE
                self.mapping.madvise(mmap.MADV_WILLNEED, start, first + self.row_bytes - start)


def cache_key(paths: Sequence[Path], vae_hash: str) -> str:
    """Name of a cache: changes with the VAE, the images' order, names, sizes and times of change.

    Raises:
        FileNotFoundError: if an image is missing; the message names it.
    """
    digest = hashlib.sha256(f"{_VERSION} {vae_hash} {len(paths)}".encode())
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path}: the image is named in metadata.jsonl but is not there"
            ) from error
        digest.update(f"{path.parent.parent.name}/{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:20]


def _encode(vae: nn.Module, images: Tensor, channels: int, device: torch.device) -> Tensor:
    """(N, 2, 4, H/8, W/8) float16 scaled means and deviations of (N, H, W) uint8 images, on the CPU."""
    posterior = vae.encode(to_pixel_values(images, channels).to(device, vae.dtype)).latent_dist
    moments = torch.stack(
        [scale_latents(vae, posterior.mean), posterior.std * vae.config.scaling_factor], dim=1
    )
    return moments.to("cpu", torch.float16)


@torch.no_grad()
def build_latent_cache(
    paths: Sequence[Path],
    vae: nn.Module,
    vae_hash: str,
    root: Path,
    *,
    channels: int,
    device: torch.device,
    batch_size: int = 32,
    is_main: bool = True,
) -> Path:
    """Encode all images, or find them encoded.

    An image is encoded on the canvas that just holds its word; what is right of it becomes the latents of
    white paper.

    Args:
        root: the folder that holds caches; an interrupted encoding leaves nothing behind that is ever used.
        channels: channels of the VAE's pixels.
        is_main: False for all processes but one: they only look.
    Returns:
        The cache's folder.
    Raises:
        ValueError: if images differ in size, or ``root`` can't be written to.
    """
    folder = root / f"{cache_key(paths, vae_hash)}"
    if (folder / "index.json").is_file() or not is_main:
        return folder
    temporary = root / f".tmp-{folder.name}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"--latent_cache {root}: can't be written to ({error.strerror}). Name a folder for encoded images"
            " that can."
        ) from error
    moments, inks = None, []
    try:
        pool = _POOL * batch_size
        bar = tqdm(total=len(paths), desc="encode", unit="word", leave=False)
        for start in range(0, len(paths), pool):
            images = read_images(paths[start : start + pool])
            height, width = images.shape[1:]
            if moments is None:
                white = _encode(vae, torch.full((1, height, width), 255, dtype=torch.uint8), channels, device)
                moments = np.lib.format.open_memmap(
                    temporary / "moments.npy", "w+", np.float16, (len(paths), *white.shape[1:])
                )
            if (height, width) != (moments.shape[-2] * COLUMN, moments.shape[-1] * COLUMN):
                raise UserError(
                    f"{paths[start]}: {height}x{width} pixels, unlike the images before it. "
                    "Preprocess all word folders with one --img_size."
                )
            ink = measure_ink(images)
            inks.append(ink)
            canvases = canvas_widths(ink[:, 2].numpy(), _MARGIN, CANVAS_STEP, width)
            for rows in torch.from_numpy(np.argsort(canvases, kind="stable")).split(batch_size):
                canvas = int(canvases[rows].max())
                batch = white.repeat(len(rows), 1, 1, 1, 1)
                batch[..., : canvas // COLUMN] = _encode(vae, images[rows, :, :canvas], channels, device)
                moments[start + rows.numpy()] = batch.numpy()
                bar.update(len(rows))
        bar.close()
        moments.flush()
        np.save(temporary / "ink.npy", torch.cat(inks).numpy())
        index = {"version": _VERSION, "vae_hash": vae_hash, "images": len(paths)}
        (temporary / "index.json").write_text(json.dumps(index), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


class TrainingConditions:
    """Character ids, writer rows and layouts of all records, in memory, with null where a condition is
    dropped.

    Args:
        records: all records; writers that the model does not know become the null writer, and texts that it
            can't spell become null text (they are never drawn for training).
        writers: name to row.
        null_writer: row of the null writer, or None for a model without.
        width_model: for models with text layout, else None.
        ink: (N, 4) measured ink of each record's image, pixels. In training the layout has the image's own
            extent, so that the width of a word follows the layout exactly.
    """

    def __init__(
        self,
        records: Sequence[TextImage],
        *,
        charset: Charset,
        max_length: int,
        writers: Mapping[str, int],
        null_writer: int | None,
        width_model: WidthModel | None,
        ink: np.ndarray,
        device: torch.device,
    ) -> None:
        is_known = [len(r.text) <= max_length and not charset.unknown(r.text) for r in records]
        texts = [r.text if ok else "" for r, ok in zip(records, is_known, strict=True)]
        self.input_ids = charset.encode(texts, max_length).to(device)
        self.reading_ids = charset.encode([order_along_line(text) for text in texts], max_length).to(device)
        self.lengths = torch.tensor([len(text) for text in texts])  # on the CPU
        self.writer_ids = torch.tensor(
            [writers.get(record.writer, null_writer or 0) for record in records], device=device
        )
        self.pad_id, self.null_writer = charset.pad_id, null_writer
        self._edges = None
        if width_model is not None:
            edges = [
                (
                    width_model.edges(text, {r.writer: 1.0}, (float(box[0]), float(box[2])))
                    if text
                    else np.zeros(1)
                )
                for text, r, box in zip(texts, records, ink, strict=True)
            ]
            self._edges = torch.from_numpy(np.stack([pad_edges(e, max_length) for e in edges])).to(device)

    def batch(
        self, indices: Tensor, columns: int, dropped: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Conditions of a batch.

        Args:
            indices: (B,) record numbers.
            columns: columns of the latents.
            dropped: (B,) bool for text and for writer: replaced by null.
        Returns:
            input_ids (B, L), writer_ids (B,), layout (B, 2, L, W) or None.
        """
        input_ids, writer_ids = self.input_ids[indices], self.writer_ids[indices]
        layout = None if self._edges is None else layout_columns(self._edges[indices], columns)
        if dropped is not None:
            no_text, no_writer = dropped
            input_ids = input_ids.masked_fill(no_text[:, None], self.pad_id)
            writer_ids = writer_ids.masked_fill(no_writer, self.null_writer)
            if layout is not None:
                layout = layout.masked_fill(no_text[:, None, None, None], 0.0)
        return input_ids, writer_ids, layout
