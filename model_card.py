"""What a checkpoint says of itself: ``config.json``, and where ``--models_path`` finds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unet import UNetConfig
from utils.charset import Charset
from utils.checkpoint import CONFIG_NAME, FORMAT_VERSION, WEIGHTS_NAME, list_checkpoints
from utils.diffusion import NoiseSchedule
from utils.layout import WidthModel, canvas_widths


@dataclass(frozen=True)
class ModelCard:
    """What a checkpoint's ``config.json`` says besides the UNet's sizes.

    Attributes:
        img_size: (height, width) of the images, pixels.
        writers: names of the hands, in the order of their embedding rows.
        width_model: None for a model without text layout that was not given one.
        vae: ``name``, ``hash`` of the VAE that made the latents.
        canvas_step: the words' canvases are the narrowest multiples of this that hold them, in pixels; None: all are as wide
            as the images.
        extra: everything else: step, preset, library versions, condition dropout.
    """

    charset: Charset
    writers: tuple[str, ...]
    schedule: NoiseSchedule
    img_size: tuple[int, int]
    width_model: WidthModel | None
    vae: Mapping[str, str]
    canvas_step: int | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self, unet_config: UNetConfig) -> dict:
        """``config.json``'s content."""
        return {
            "format_version": FORMAT_VERSION,
            "kind": "diffusion",
            "unet": unet_config.to_dict(),
            "schedule": self.schedule.to_dict(),
            "charset": "".join(self.charset.characters),
            "writers": list(self.writers),
            "img_size": list(self.img_size),
            "width_model": self.width_model.to_dict() if self.width_model else None,
            "vae": dict(self.vae),
            "canvas_step": self.canvas_step,
            **self.extra,
        }

    @classmethod
    def from_dict(cls, values: dict) -> tuple["ModelCard", UNetConfig]:
        """Read ``config.json``'s content.

        Raises:
            ValueError: if a newer version wrote it.
        """
        values = dict(values)
        if values.get("format_version", 0) > FORMAT_VERSION:
            raise ValueError(f"checkpoint format {values['format_version']} is newer than this program's {FORMAT_VERSION}")
        values.pop("format_version", None)
        values.pop("kind", None)
        unet_config = UNetConfig.from_dict(values.pop("unet"))
        width_model = values.pop("width_model")
        card = cls(
            charset=Charset(tuple(values.pop("charset")), unet_config.pad_id),
            writers=tuple(values.pop("writers")),
            schedule=NoiseSchedule(**values.pop("schedule")),
            img_size=tuple(values.pop("img_size")),
            width_model=WidthModel(**width_model) if width_model else None,
            vae=values.pop("vae"),
            canvas_step=values.pop("canvas_step", None),
            extra=values,
        )
        return card, unet_config

    def canvas_widths(self, rights: np.ndarray) -> np.ndarray:
        """(N,) widths in pixels of the canvases of words whose ink ends at ``rights`` (N,), in pixels."""
        if self.canvas_step is None:
            return np.full(len(rights), self.img_size[1])
        return canvas_widths(rights, self.width_model.left, self.canvas_step, self.img_size[1])


def find_checkpoint(models_path: Path, *, flag: str = "--models_path") -> Path:
    """The checkpoint folder that ``flag`` means: itself, or a run's newest whole one.

    Raises:
        FileNotFoundError: if there is none.
    """
    if not models_path.is_dir():
        raise FileNotFoundError(f"{flag} {models_path}: no such folder")
    if (models_path / WEIGHTS_NAME).is_file() and (models_path / CONFIG_NAME).is_file():
        return models_path
    checkpoints = [path for path in list_checkpoints(models_path) if (path / WEIGHTS_NAME).is_file()]
    if not checkpoints:
        raise FileNotFoundError(
            f"{flag} {models_path}: no step_* folder with {CONFIG_NAME} and {WEIGHTS_NAME}, and no published "
            "models/ema_ckpt.pt. Pass a checkpoint, or the --save_path of a run that has saved one."
        )
    return checkpoints[-1]
