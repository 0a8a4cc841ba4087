"""From images to feature vectors of equal sets, and the distances of FID's Inception between them."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from diffusion.autoencoder import load_vae, vae_in_channels
from evaluation.comparison import Comparison
from evaluation.image_sets import ImageSet
from evaluation.inception import embed_images, load_inception
from evaluation.measures import LeftOut, Measure, measure_distances
from utils.bootstrap import Bootstrap
from utils.errors import UserError
from utils.images import pad_to_width, to_images, to_pixel_values

SQUARE = 32  # pixels: the height at which HWD's authors compute FID
Embed = Callable[[list[np.ndarray]], np.ndarray]  # n images (H, W_i) to (n, d) features
Reconstruct = Callable[[list[np.ndarray]], list[np.ndarray]]


def embed_rows(images: ImageSet, rows: np.ndarray, embed: Embed, description: str) -> np.ndarray:
    """Features of some images, (n, d), a chunk of images at a time."""
    return np.concatenate([embed(chunk) for _, chunk in images.chunks(rows, description)])


def make_reconstructor(name: str, batch_size: int, device: torch.device) -> Reconstruct:
    """A function from images to the same images after encoding (to the mean) and decoding by a VAE."""
    vae = load_vae(name).to(device)
    channels = vae_in_channels(vae)

    def decode(images: list[np.ndarray]) -> list[np.ndarray]:
        width = -(-max(image.shape[1] for image in images) // 8) * 8
        batch = torch.from_numpy(np.stack([pad_to_width(image, width) for image in images]))
        latents = vae.encode(to_pixel_values(batch, channels).to(device)).latent_dist.mode()
        decoded = to_images(vae.decode(latents).sample)
        return [part[:, : image.shape[1]] for part, image in zip(decoded, images, strict=True)]

    @torch.inference_mode()
    def reconstruct(images: list[np.ndarray]) -> list[np.ndarray]:
        if images[0].shape[0] % 8:
            raise UserError(
                f"--vae {name}: images {images[0].shape[0]} pixels high; it needs a multiple of 8"
            )
        # Similar widths in a batch, so that a line does not make its batch of words as wide as itself.
        order = sorted(range(len(images)), key=lambda i: images[i].shape[1])
        decoded: list[np.ndarray] = list(images)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for row, image in zip(rows, decode([images[row] for row in rows]), strict=True):
                decoded[row] = image
        return decoded

    return reconstruct


def embed_sets(
    pair: Comparison, embed: Embed, reconstruct: Reconstruct | None, name: str
) -> dict[str, np.ndarray]:
    """Features of the equal sets by column, with ``reference``.

    Raises:
        LeftOut: if the sets have less than two images.
    """
    if pair.sets.size < 2:
        raise LeftOut(
            f"{name} distances: need two generated images and twice as many real ones of the same writers;"
            f" here {pair.sets.size} can be drawn. --split all allows more real images."
        )
    features = {
        "reference": embed_rows(pair.real, pair.sets.reference, embed, f"{name} real"),
        "generated": embed_rows(pair.generated, pair.sets.generated, embed, f"{name} generated"),
        "real": embed_rows(pair.real, pair.sets.real, embed, f"{name} real"),
    }
    if reconstruct:
        features["vae"] = embed_rows(
            pair.real, pair.sets.real, lambda images: embed(reconstruct(images)), f"{name} vae"
        )
    return features


def measure_inception(
    pair: Comparison,
    weights: Path | None,
    reconstruct: Reconstruct | None,
    *,
    batch_size: int,
    device: torch.device,
    bootstrap: Bootstrap,
) -> list[Measure]:
    """FID and KID.

    Raises:
        LeftOut: if there are no weights, unless ``weights`` names a file: then FileNotFoundError or
        UserError.
    """
    try:
        network, description = load_inception(weights)
    except (FileNotFoundError, UserError) as error:
        raise error if weights else LeftOut(f"FID and KID: {error}") from error
    network.to(device)
    widths = np.concatenate([pair.real.widths, pair.generated.widths])
    width = int(widths.max())

    def embed(images: list[np.ndarray]) -> np.ndarray:
        stack = np.stack([pad_to_width(image, width) for image in images])
        return embed_images(network, stack, batch_size=batch_size, device=device)

    features = embed_sets(pair, embed, reconstruct, "inception")
    padding = "" if widths.min() == width else f" (widths from {widths.min()}, white at the right)"
    protocol = (
        f"Inception, {description}; whole images of {pair.real.height}x{width}{padding}, no crop, grey in"
        f" three channels, resized to 299x299 by torch-fidelity (bilinear, no antialiasing); {pair.protocol}"
    )
    return measure_distances(
        ("fid", "kid"),
        ("FID (Inception)", "KID (Inception)"),
        features.pop("reference"),
        features,
        protocol,
        bootstrap,
    )


def start_square(image: np.ndarray, *, is_binary: bool) -> np.ndarray:
    """(32, 32) uint8: the square at the beginning of an (H, W) uint8 image, reduced without interpolation;
    what is right of a narrow image is black, as in the authors' code.

    Args:
        is_binary: black and white first, by Otsu's threshold of the whole image.
    """
    if is_binary:
        _, image = cv2.threshold(image, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    height = image.shape[0]
    square = np.zeros((height, height), np.uint8)
    part = image[:, :height]
    square[:, : part.shape[1]] = part
    return cv2.resize(square, (SQUARE, SQUARE), interpolation=cv2.INTER_NEAREST_EXACT)


def measure_squares(
    pair: Comparison, weights: Path | None, *, batch_size: int, device: torch.device, bootstrap: Bootstrap
) -> list[Measure]:
    """FID and KID as papers on handwriting report them beside HWD, and BFID and BKID, the same in black and
    white: of the square at the beginning of each image.

    Raises:
        LeftOut: as ``measure_inception``.

    Source: https://github.com/aimagelab/HWD, ``FIDScore`` and ``BFIDScore``.
    """
    try:
        network, description = load_inception(weights)
    except (FileNotFoundError, UserError) as error:
        raise error if weights else LeftOut(f"FID and BFID of start squares: {error}") from error
    network.to(device)
    measures = []
    for is_binary, prefix in ((False, ""), (True, "b")):

        def embed(images: list[np.ndarray], is_binary: bool = is_binary) -> np.ndarray:
            squares = np.stack([start_square(image, is_binary=is_binary) for image in images])
            return embed_images(network, squares, batch_size=batch_size, device=device)

        features = embed_sets(pair, embed, None, "squares")
        protocol = (
            f"Inception, {description}; the square at the beginning of each image"
            f"{', black and white by Otsu,' if is_binary else ''} at {SQUARE}x{SQUARE}, resized to 299x299 by"
            f" torch-fidelity; {pair.protocol}"
        )
        measures += measure_distances(
            (f"{prefix}fid_squares", f"{prefix}kid_squares"),
            (f"{prefix.upper()}FID (start squares)", f"{prefix.upper()}KID (start squares)"),
            features.pop("reference"),
            features,
            protocol,
            bootstrap,
        )
    return measures
