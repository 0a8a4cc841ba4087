"""The Inception network of FID and KID: its weights found or fetched, and images to features."""

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
DAMAGED = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    pickle.UnpicklingError,
)  # what reading a file that holds no weights, or others, may raise


class PooledInception(nn.Module):
    """torch-fidelity's Inception as one tensor in, one tensor out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 2048) features of (B, 3, H, W) uint8 images, which are resized to 299x299 as TensorFlow did."""
        (features,) = self.network(images)
        return features


def load_inception(weights: Path | None, *, flag: str = "--inception_weights") -> tuple[nn.Module, str]:
    """The network by which FID is defined, and a description of its weights.

    Args:
        weights: a file; None for the standard weights from torch's cache, or from their host.
    Returns:
        A module from (B, 3, H, W) uint8 to (B, 2048) float features, which resizes to 299x299 by itself; a
        description.
    Raises:
        FileNotFoundError: if there are no weights; the message says how to get them.
        UserError: if the file holds others, or a package is missing.

    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500; the network is torch-fidelity's port of
    theirs.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ImportError as error:
        raise UserError(f"FID and KID: {error}. Run `pip install torch-fidelity`.") from error
    path = find_weights(weights, URL_INCEPTION_V3, flag)
    try:
        # First as tensors alone: torch-fidelity would execute what a pickle says.
        torch.load(path, weights_only=True, map_location="meta")
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", [str(FEATURES)], feature_extractor_weights_path=str(path)
        )
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{flag} {path}: not the weights of FID's Inception ({reason}). The standard ones are "
            f"{URL_INCEPTION_V3}"
        ) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    is_standard = digest.startswith(STANDARD_HASH)
    kind = "the standard ones" if is_standard else "NOT the standard ones"
    return PooledInception(network).eval(), f"weights {digest[:8]}, {kind}"


def find_weights(weights: Path | None, url: str, flag: str) -> Path:
    """The file of the weights: the one given, the one in torch's cache, or a fresh one from its host.

    Raises:
        FileNotFoundError: if there is none; the message says how to get it.
    """
    if weights:
        if not weights.is_file():
            raise FileNotFoundError(f"{flag} {weights}: no such file. The standard weights are {url}")
        return weights
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    if not can_reach(url.split("/")[2]):
        raise FileNotFoundError(
            f"{flag} FILE: get {url} (92 MB) on a machine with a connection and name it; from here it can't"
            " be reached."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=STANDARD_HASH)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"{flag} FILE: fetching {url} failed ({error}); get it otherwise and name it."
        ) from error
    return path


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
