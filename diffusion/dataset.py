"""The latents of all text images, encoded once and kept on disk."""

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffusion.autoencoder import scale_latents
from diffusion.layout import CANVAS_STEP, COLUMN, canvas_widths
from utils.errors import UserError
from utils.images import measure_ink, stack_images, to_pixel_values
from utils.json_files import read_json
from utils.sources import read_image, read_images

_VERSION = 3
_POOL = 16  # batches that are sorted by width together
_MARGIN = 8  # pixels of white behind the ink that are encoded with it
_WHITE_CANVAS = 256  # pixels of white paper whose middle column stands for all white paper
COLUMNS_NAME = "columns.f16"


class LatentCache:
    """Posterior means and standard deviations of all images of a training set, on disk, memory-mapped.

    Each image has as many columns as its ink needs, so that a line costs what it is long.

    Attributes:
        columns: (columns of all images + 1, 2, C, H/8) float16, one image after another, scaled as the
            diffusion model sees them: [:, 0] means, [:, 1] deviations. The last one is white paper.
        starts: (N + 1,) int64, where each image's columns begin.
        ink: (N, 4) float32, left, top, right, bottom of the ink in pixels.
        widths: (N,) int64, widths of the image files in pixels.
        folder: where all this lies.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = read_json(folder / "index.json", "--latent_cache")
        shape = (-1, 2, index["channels"], index["height"])
        # Copy-on-write, and never written: torch warns of read-only arrays.
        self.columns = np.memmap(folder / COLUMNS_NAME, np.float16, mode="c").reshape(shape)
        self.starts = np.load(folder / "starts.npy")
        self.ink = np.load(folder / "ink.npy")
        self.widths = np.load(folder / "widths.npy")

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return self.columns.shape[2]

    @property
    def height(self) -> int:
        """Rows of the latents: the images' height over 8."""
        return self.columns.shape[3]

    @property
    def canvas_size(self) -> tuple[int, int]:
        """(height, width) in pixels of a canvas that holds each of the images."""
        widest = max(int(np.diff(self.starts).max()) * COLUMN, int(self.widths.max()))
        return self.height * COLUMN, widest


class LatentColumns:
    """The cached latents of batches, from memory or from a file that may be larger than memory.

    By itself a system reads much around each place of a mapped file, which fills memory with what is not
    asked for. Of an array in memory, and where a system can't be told, nothing is different.
    """

    def __init__(self, cache: LatentCache, device: torch.device, *, in_memory: bool) -> None:
        self.cache, self.device = cache, device
        self.choose(np.stack([cache.starts[:-1], cache.starts[1:]], axis=1))
        columns = torch.from_numpy(np.asarray(cache.columns))
        self.columns = columns.to(device, copy=True) if in_memory else columns
        mapping = None if in_memory else getattr(cache.columns, "_mmap", None)
        self.mapping: mmap.mmap | None = mapping if hasattr(mmap, "MADV_RANDOM") else None  # not on Windows
        if self.mapping is not None:
            self.mapping.madvise(mmap.MADV_RANDOM)

    def choose(self, columns: np.ndarray) -> None:
        """Count parts of images from now on, and no longer images.

        Args:
            columns: (N, 2) int64, each one's first column and the one behind its last, in the whole cache.
        """
        self.starts, self.ends = torch.from_numpy(columns).unbind(dim=1)

    def batch(self, indices: Tensor, columns: int) -> Tensor:
        """(B, 2, C, H/8, columns) float32 moments of images on one canvas; what they don't cover is white.

        Args:
            indices: (B,) on the CPU.
            columns: width of the canvas, in columns of 8 pixels.
        """
        starts, ends = self.starts[indices][:, None], self.ends[indices][:, None]
        places = starts + torch.arange(columns)  # (B, columns)
        places = torch.where(places < ends, places, len(self.columns) - 1)
        moments = self.columns[places.to(self.columns.device)]  # (B, columns, 2, C, H/8)
        return moments.to(self.device).permute(0, 2, 3, 4, 1).float()

    def prefetch(self, indices: Sequence[int]) -> None:
        """Have these images' columns read from disk while something else is computed."""
        if self.mapping is None:
            return
        column_bytes = self.columns[0].numel() * self.columns.element_size()
        for index in indices:
            first, last = (int(place[index]) * column_bytes for place in (self.starts, self.ends))
            start = first - first % mmap.PAGESIZE
            self.mapping.madvise(mmap.MADV_WILLNEED, start, last - start)


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

    An image is encoded on the canvas that just holds its ink, whatever its file's width.

    Args:
        root: the folder that holds caches; an interrupted encoding leaves nothing behind that is ever used.
        channels: channels of the VAE's pixels.
        is_main: False for all processes but one: they only look.
    Returns:
        The cache's folder.
    Raises:
        UserError: if images differ in height, or ``root`` can't be written to.
        OSError: if the disk is full.
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
    try:
        _encode_all(paths, vae, temporary, channels=channels, device=device, batch_size=batch_size)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def _encode_all(
    paths: Sequence[Path],
    vae: nn.Module,
    folder: Path,
    *,
    channels: int,
    device: torch.device,
    batch_size: int,
) -> None:
    """Write the columns of all images, in their order, and what ``LatentCache`` needs to find them."""
    height = read_image(paths[0]).shape[0]
    white = _encode(vae, torch.full((1, height, _WHITE_CANVAS), 255, dtype=torch.uint8), channels, device)
    inks, widths, counts = [], [], []
    # Appended, not mapped: a full disk is then an error, and not a signal that ends the process.
    with (
        (folder / COLUMNS_NAME).open("wb") as file,
        tqdm(total=len(paths), desc="encode", unit="image", leave=False) as bar,
    ):
        pool = _POOL * batch_size
        for start in range(0, len(paths), pool):
            images = read_images(paths[start : start + pool], height=height)
            ink = measure_ink(images)
            canvases = canvas_widths(ink[:, 2].numpy(), _MARGIN, CANVAS_STEP)
            encoded: dict[int, np.ndarray] = {}
            for rows in np.split(
                order := np.argsort(canvases, kind="stable"), range(batch_size, len(order), batch_size)
            ):
                batch = stack_images([images[row] for row in rows], int(canvases[rows].max()))
                moments = _encode(vae, batch, channels, device)  # (B, 2, C, h, W)
                for row, moment in zip(rows, moments, strict=True):
                    columns = moment[..., : canvases[row] // COLUMN].permute(3, 0, 1, 2)
                    encoded[int(row)] = columns.contiguous().numpy()
                bar.update(len(rows))
            for row in range(len(images)):
                file.write(encoded[row].tobytes())
            inks.append(ink)
            widths += [image.shape[1] for image in images]
            counts.append(canvases // COLUMN)
        file.write(white[0, ..., white.shape[-1] // 2].contiguous().numpy().tobytes())
    np.save(folder / "ink.npy", torch.cat(inks).numpy())
    np.save(folder / "widths.npy", np.array(widths, np.int64))
    np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64))
    index = {"version": _VERSION, "images": len(paths), "channels": white.shape[2], "height": white.shape[3]}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
