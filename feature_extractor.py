"""The style encoder: text images to style vectors and to the names of writers.

It measures whether a generated image is in its writer's handwriting, and its vectors are the space of the
style distances.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.checkpoint import load_described, save_described
from utils.errors import UserError
from utils.images import INK, to_pixel_values

STYLE_WEIGHTS_NAME = "style_encoder.safetensors"
KIND = "style_encoder"
BACKBONES = ("mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet34", "efficientnet_b0")
INK_LEVEL = 0.5  # of the way from white to black: darker pixels are ink
BLANK_WEIGHT = 1e-4  # of a cell without ink in the pooling, so that an empty image has a style vector too
LOGIT_SCALE = 16.0
WIDTH_STEP = 32  # pixels
BATCH_COLUMNS = 32_768  # pixels: 64 words 512 wide, 16 lines 2,000 wide; bounds the memory


@dataclass(frozen=True, kw_only=True)
class StyleEncoderConfig:
    """What fixes a style encoder's tensors.

    Attributes:
        writers: names, in the order of the logits.
        img_size: (height, width) in pixels of the images that it was trained on; other widths can be given
            too.
        backbone: a torchvision model.
        style_dim: length of a style vector.
    """

    writers: tuple[str, ...]
    img_size: tuple[int, int]
    backbone: str = BACKBONES[0]
    style_dim: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "writers", tuple(self.writers))
        object.__setattr__(self, "img_size", tuple(self.img_size))
        if self.backbone not in BACKBONES:
            raise UserError(f"--backbone {self.backbone}: not one of {', '.join(BACKBONES)}")


def build_backbone(name: str) -> tuple[nn.Module, int]:
    """A torchvision backbone's convolutions for one channel, untrained, and the channels of its feature
    map.
    """
    import torchvision

    model = getattr(torchvision.models, name)(weights=None)
    if name.startswith("resnet"):
        model.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        # Without the last level, whose map is two rows high: handwriting shows in strokes and joints, not in
        # whole words.
        layers = [model.conv1, model.bn1, model.relu, model.maxpool, model.layer1, model.layer2, model.layer3]
        return nn.Sequential(*layers), model.layer3[-1].conv2.out_channels
    first = model.features[0][0]
    model.features[0][0] = nn.Conv2d(1, first.out_channels, 3, stride=first.stride, padding=1, bias=False)
    return model.features, model.features[-1][0].out_channels


def quicken_batch_norms(module: nn.Module) -> None:
    """Let running statistics follow within tens of steps: a short training is measured early, and some
    backbones average over hundreds."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.1


class StyleEncoder(nn.Module):
    """A torchvision backbone, pooled over the ink alone, with a style vector of unit length and a cosine
    classifier.

    The classifier is that of NormFace (Wang et al. 2017, https://arxiv.org/abs/1704.06369, section 3.2), so
    that the cosine of two style vectors means what the logits mean.
    """

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, channels = build_backbone(config.backbone)
        quicken_batch_norms(self.backbone)
        self.project = nn.Linear(channels, config.style_dim)
        self.writers = nn.Parameter(torch.randn(len(config.writers), config.style_dim))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Style vectors and writer logits of images.

        Args:
            pixel_values: (B, 1, H, W) in [-1, 1], ink dark on white.
        Returns:
            (B, style_dim) vectors of length 1, and (B, writers) logits.
        """
        ink = (1 - pixel_values) / 2  # white is 0, as the convolutions' padding is
        features = self.backbone(ink)  # (B, C, h, w)
        is_ink = (ink > INK_LEVEL).to(features.dtype)
        weights = F.adaptive_avg_pool2d(is_ink, features.shape[-2:]).clamp_min(BLANK_WEIGHT)  # (B, 1, h, w)
        pooled = (features * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3))  # (B, C)
        style = F.normalize(self.project(pooled).float(), dim=-1)
        return style, LOGIT_SCALE * style @ F.normalize(self.writers.float(), dim=-1).T

    @torch.inference_mode()
    def embed(
        self, images: np.ndarray | Sequence[np.ndarray], *, batch_size: int = 64
    ) -> tuple[np.ndarray, np.ndarray]:
        """Style vectors and writer logits of (H, W_i) uint8 images of any widths.

        Args:
            batch_size: most images computed at once; of wide images fewer, see ``BATCH_COLUMNS``.
        Returns:
            (N, style_dim) and (N, writers) float32 arrays.
        Raises:
            UserError: if an image has another height than those that it was trained on; the message says
                which.
        """
        height = self.config.img_size[0]
        for number, image in enumerate(images):
            if image.shape[0] != height:
                raise UserError(
                    f"image {number + 1} of {len(images)}: {image.shape[0]} pixels high; this style encoder"
                    f" was trained on images of {height}"
                )
        styles = np.zeros((len(images), self.config.style_dim), np.float32)
        logits = np.zeros((len(images), len(self.config.writers)), np.float32)
        # Each at the width that its ink needs: an image's style must not depend on its batch.
        widths = np.array([ink_width(image) for image in images])
        for width in np.unique(widths):
            rows = np.flatnonzero(widths == width)
            count = max(1, min(batch_size, BATCH_COLUMNS // int(width)))
            for part in np.split(rows, range(count, len(rows), count)):
                batch = torch.from_numpy(np.stack([images[row][:, :width] for row in part]))
                style, logit = self(to_pixel_values(batch, 1).to(self.writers.device))
                styles[part], logits[part] = style.cpu().numpy(), logit.float().cpu().numpy()
        return styles, logits

    def save_pretrained(self, folder: Path, extra: dict, *, dtype: torch.dtype | None = None) -> None:
        """Write ``config.json`` and the weights, optionally cast to ``dtype``; ``extra`` are further entries
        of the former.
        """
        save_described(self, folder, STYLE_WEIGHTS_NAME, KIND, asdict(self.config), extra, dtype=dtype)

    @classmethod
    def from_pretrained(cls, path: str | Path, *, flag: str = "--style_encoder") -> "StyleEncoder":
        """Load a style encoder, in evaluation mode, on the CPU.

        Args:
            path: a folder that ``save_pretrained`` wrote, or a run of ``evaluation/train_style_encoder.py``
                (its newest checkpoint).
        Raises:
            FileNotFoundError: if there is none; ValueError: if it is damaged, or something else.
        """
        return load_described(
            lambda config: cls(StyleEncoderConfig(**config)),
            Path(path),
            STYLE_WEIGHTS_NAME,
            KIND,
            flag=flag,
            script="evaluation/train_style_encoder.py",
        )


def ink_width(image: np.ndarray) -> int:
    """Width of an (H, W) uint8 image without the white at its right, up to a multiple of 32 pixels."""
    columns = np.flatnonzero((image < INK).any(axis=0))
    right = int(columns[-1]) + 1 if len(columns) else 1
    return min(image.shape[1], -(-right // WIDTH_STEP) * WIDTH_STEP)
