"""HWD, the handwriting distance: how far two sets of images of a writer are apart for a VGG16 that was
trained to tell fonts apart.

Source: Pippi et al. 2023, HWD: A Novel Evaluation Score for Styled Handwritten Text Generation,
https://arxiv.org/abs/2310.20316; the published weights are those of https://github.com/aimagelab/font_square.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from evaluation.comparison import Comparison
from evaluation.image_sets import ImageSet
from evaluation.inception import DAMAGED
from evaluation.measures import LeftOut, Measure
from utils.bootstrap import Bootstrap
from utils.errors import UserError

HEIGHT = 32  # pixels, to which images are brought
CHANNELS = 512  # of VGG16's last feature map
WEIGHTS_URL = "https://github.com/aimagelab/font_square/releases/download/VGG-16/VGG16_class_10400.pth"


def load_vgg(weights: Path, *, flag: str = "--hwd_weights") -> nn.Module:
    """The convolutions of VGG16 with weights from a file, in evaluation mode, on the CPU.

    Args:
        weights: a state dict of torchvision's VGG16, however many classes it was trained on.
    Raises:
        FileNotFoundError: if there is no such file; UserError: if it holds something else.
    """
    if not weights.is_file():
        raise FileNotFoundError(f"{flag} {weights}: no such file. The published weights are {WEIGHTS_URL}")
    from torchvision.models import vgg16

    with torch.device("meta"):
        features = vgg16(weights=None).features
    try:
        state = torch.load(weights, weights_only=True, map_location="cpu")
        prefix = "features."
        convolutions = {
            name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
        }
        features.load_state_dict(convolutions, assign=True)
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{flag} {weights}: not the weights of a VGG16 ({reason}). The published ones are {WEIGHTS_URL}"
        ) from error
    return features.float().eval().requires_grad_(False)


def prepare_image(image: np.ndarray) -> Tensor:
    """(3, 32, W) float in [0, 1] of an (H, W) uint8 image: at least as wide as high, white at both sides, and
    resized without interpolation, as the authors' code does.
    """
    height, width = image.shape
    if width < height:
        left = (height - width) // 2
        image = np.pad(image, ((0, 0), (left, height - width - left)), constant_values=255)
    size = (int(HEIGHT * image.shape[1] / height), HEIGHT)
    resized = cv2.resize(image, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return torch.from_numpy(resized).float().div(255).expand(3, -1, -1)


@torch.inference_mode()
def sum_features(network: nn.Module, images: Sequence[np.ndarray], device: torch.device) -> np.ndarray:
    """For each image the sum of its local features and their number, (n, 513) float64.

    An image of W pixels at height 32 has W / 32 local features of 512 numbers. One image at a time: padding
    would change the features at its edge.
    """
    sums = np.empty((len(images), CHANNELS + 1))
    for row, image in zip(sums, images, strict=True):
        local = network(prepare_image(image)[None].to(device))[0].flatten(1).double()  # (512, W / 32)
        row[:CHANNELS] = local.sum(dim=1).cpu().numpy()
        row[CHANNELS] = local.shape[1]
    return sums


def writer_distances(
    one: np.ndarray, one_writers: np.ndarray, other: np.ndarray, other_writers: np.ndarray
) -> tuple[list[str], np.ndarray]:
    """For each writer on both sides, the Euclidean distance between the means of all local features.

    Args:
        one, other: (n, 513) of ``sum_features``, with the writer of each.
    """
    writers = sorted(set(one_writers.tolist()) & set(other_writers.tolist()))
    distances = []
    for name in writers:
        sums = one[one_writers == name].sum(axis=0), other[other_writers == name].sum(axis=0)
        means = [total[:CHANNELS] / total[CHANNELS] for total in sums]
        distances.append(np.linalg.norm(means[0] - means[1]))
    return writers, np.array(distances)


def measure_hwd(
    pair: Comparison, weights: Path, device: torch.device, bootstrap: Bootstrap
) -> tuple[Measure, dict[str, float]]:
    """HWD of generated images, with its floor: real images against other real images of the same writer, as
    many.

    Returns:
        The measure; and the distance of each writer's generated images.
    Raises:
        LeftOut: if no writer has two real images and a generated one.
    """
    network = load_vgg(weights).to(device)
    if not pair.sets.size:
        raise LeftOut("hwd: needs two real images and a generated one of one writer; --split all allows more")

    def embed(images: ImageSet, rows: np.ndarray, side: str) -> tuple[np.ndarray, np.ndarray]:
        chunks = [sum_features(network, chunk, device) for _, chunk in images.chunks(rows, f"hwd {side}")]
        return np.concatenate(chunks), images.writers[rows]

    reference = embed(pair.real, pair.sets.reference, "reference")
    writers, distances = writer_distances(
        *embed(pair.generated, pair.sets.generated, "generated"), *reference
    )
    _, floor = writer_distances(*embed(pair.real, pair.sets.real, "real"), *reference)
    counts = np.unique(reference[1], return_counts=True)[1]
    values = {
        "generated": bootstrap.ratio("hwd/generated", distances),
        "real": bootstrap.ratio("hwd/real", floor),
        "difference": bootstrap.difference(
            "hwd/difference", (distances, None), (floor, None), is_paired=True
        ),
    }
    protocol = (
        f"Euclidean distance of mean VGG16 features (weights {weights.name}), images at height {HEIGHT}; mean"
        f" over {len(writers)} writers of {counts.min()} to {counts.max()} images on each side; few images a"
        f" writer make it larger, for real images too; {pair.protocol}; intervals over writers"
    )
    measure = Measure(key="hwd", label="HWD", values=values, protocol=protocol, better="lower")
    return measure, dict(zip(writers, np.round(distances, 4).tolist(), strict=True))
