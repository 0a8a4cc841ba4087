"""The Inception network of FID and KID: found, or not, and images to features."""

import hashlib
import pickle
import socket
from pathlib import Path

import numpy as np
import torch
from torch import nn

from utils.errors import UserError
from utils.hub import answers_in_time

FEATURES = 2048  # of the last pooling
STANDARD_HASH = "6726825d"  # SHA-256 of the standard weights begins so; their file name says it too
TIMEOUT = 5.0  # seconds that the weights' host has to answer


def load_inception(weights: Path | None, *, flag: str = "--inception_weights") -> tuple[nn.Module, str]:
    """The network that FID is defined by, and what is to be said of its weights.

    Args:
        weights: a file; None for the standard ones from torch's own cache, or from their host.
    Returns:
        A module from (B, 3, H, W) uint8 to (B, 2048) float features, which resizes to 299x299 by itself; a
        description.
    Raises:
        FileNotFoundError: if there are no weights; the message says how to get them. ValueError: if the file
            holds others, or a package is missing.

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500; the network is torch-fidelity's port of
        theirs.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as error:
        raise UserError(f"FID and KID: {error}. Run `pip install torchmetrics torch-fidelity`.") from error
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
    if weights and not path.is_file():
        raise FileNotFoundError(f"{flag} {path}: no such file. The standard weights are {URL_INCEPTION_V3}")
    if not path.is_file():
        if not can_reach(URL_INCEPTION_V3.split("/")[2]):
            raise FileNotFoundError(
                f"{flag} FILE: get {URL_INCEPTION_V3} (92 MB) on a machine with a connection and name it; "
                "from here it can't be reached."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=STANDARD_HASH)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"{flag} FILE: fetching {URL_INCEPTION_V3} failed ({error}); get it otherwise and name it."
            ) from error
    try:
        # First as tensors alone: torch-fidelity would execute what a pickle says.
        torch.load(path, weights_only=True, map_location="meta")
        network = FrechetInceptionDistance(
            feature=FEATURES, feature_extractor_weights_path=str(path)
        ).inception
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        pickle.UnpicklingError,
    ) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{flag} {path}: not the weights of FID's Inception ({reason}). The standard ones are "
            f"{URL_INCEPTION_V3}"
        ) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    is_standard = digest.startswith(STANDARD_HASH)
    return (
        network.eval(),
        f"weights {digest[:8]}, {'the standard ones' if is_standard else 'NOT the standard ones'}",
    )


def can_reach(host: str) -> bool:
    """True if a host answers within ``TIMEOUT`` seconds, name look-up included."""
    return answers_in_time(lambda: socket.create_connection((host, 443), timeout=TIMEOUT).close(), TIMEOUT)


@torch.inference_mode()
def embed_images(
    network: nn.Module, images: np.ndarray, *, batch_size: int, device: torch.device
) -> np.ndarray:
    """Features of (N, H, W) uint8 grey images, as (N, d) float32."""
    parts = []
    for batch in torch.from_numpy(np.ascontiguousarray(images)).split(batch_size):
        pixels = batch[:, None].expand(-1, 3, -1, -1).to(device)
        parts.append(network(pixels).float().cpu().numpy())
    return np.concatenate(parts)
