"""``config.json``: what a checkpoint says of itself, and how a training's model begins: new, or grown from
another.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from diffusion.layout import CANVAS_STEP, WidthModel, canvas_widths, fit_width_model
from diffusion.noise_schedule import NoiseSchedule
from unet import UNet, UNetConfig, grow_unet, make_config
from utils.charset import Charset
from utils.checkpoint import CONFIG_NAME, FORMAT_VERSION, WEIGHTS_NAME, list_checkpoints
from utils.errors import UserError

SAMPLE_TEXTS = 64  # of the training texts, that a checkpoint carries


@dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint's ``config.json`` says besides the UNet's sizes.

    Attributes:
        img_size: (height, width) of the images, pixels.
        writers: names of the hands, in the order of their embedding rows.
        width_model: None for a model without text layout that was not given one.
        vae: ``name``, ``hash`` of the VAE that made the latents.
        canvas_step: the words' canvases are the narrowest multiples of this that hold them, in pixels; None:
            all are as wide as the images.
        sample_texts: a few of the texts that the model was trained on; what inference writes where no words
            are given. Empty in checkpoints of earlier versions.
        extra: everything else: step, preset, library versions, condition dropout.
    """

    charset: Charset
    writers: tuple[str, ...]
    schedule: NoiseSchedule
    img_size: tuple[int, int]
    width_model: WidthModel | None
    vae: Mapping[str, str]
    canvas_step: int | None = None
    sample_texts: tuple[str, ...] = ()
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
            "sample_texts": list(self.sample_texts),
            **self.extra,
        }

    @classmethod
    def from_dict(cls, values: dict) -> tuple["CheckpointConfig", UNetConfig]:
        """Read ``config.json``'s content.

        Raises:
            ValueError: if a newer version wrote it.
        """
        values = dict(values)
        if values.get("format_version", 0) > FORMAT_VERSION:
            raise UserError(
                f"checkpoint format {values['format_version']} is newer than this program's {FORMAT_VERSION}"
            )
        values.pop("format_version", None)
        values.pop("kind", None)
        unet_config = UNetConfig.from_dict(values.pop("unet"))
        width_model = values.pop("width_model")
        sample_texts = values.pop("sample_texts", [])
        if not isinstance(sample_texts, list) or not all(isinstance(text, str) for text in sample_texts):
            raise UserError(f"sample_texts is not a list of texts but {sample_texts!r:.80}")
        config = cls(
            charset=Charset(tuple(values.pop("charset")), unet_config.pad_id),
            writers=tuple(values.pop("writers")),
            schedule=NoiseSchedule(**values.pop("schedule")),
            img_size=tuple(values.pop("img_size")),
            width_model=WidthModel(**width_model) if width_model else None,
            vae=values.pop("vae"),
            canvas_step=values.pop("canvas_step", None),
            sample_texts=tuple(sample_texts),
            extra=values,
        )
        return config, unet_config

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


@dataclass(frozen=True)
class FreshModel:
    """What a new model's sizes and names are taken from.

    Attributes:
        texts, writers, ink: of the training records; ink (N, 4) in pixels.
        img_size: (height, width), pixels.
        max_length: longest text, or None: the longest there is.
        vae: name and hash of the VAE.
        extra: further entries of ``config.json``.
    """

    texts: Sequence[str]
    writers: Sequence[str]
    ink: np.ndarray
    img_size: tuple[int, int]
    max_length: int | None
    vae: dict[str, str]
    extra: dict[str, object]

    def build(self, preset: str, prediction_type: str, **changes) -> tuple[UNet, CheckpointConfig]:
        """A UNet of a preset for this data; ``changes`` override single fields of ``UNetConfig``."""
        charset, names = Charset.from_texts(self.texts), tuple(sorted(set(self.writers)))
        unet_config = make_config(
            preset,
            num_writers=len(names),
            vocabulary_size=charset.vocabulary_size,
            max_length=self._max_length(),
            **changes,
        )
        width_model = fit_width_model(self.texts, self.writers, self.ink, self.img_size[1])
        # A layout says how wide a word will be; a centred word has its place from the whole width.
        canvas_step = CANVAS_STEP if unet_config.text_layout and not width_model.is_centered else None
        config = CheckpointConfig(
            charset,
            names,
            NoiseSchedule(prediction_type),
            self.img_size,
            width_model,
            self.vae,
            canvas_step,
            choose_sample_texts(self.texts),
            {"preset": preset, **self.extra, "library_versions": library_versions()},
        )
        return UNet(unet_config), config

    def grow(self, start: UNet, old: CheckpointConfig) -> tuple[UNet, CheckpointConfig]:
        """``start``, whose config is ``old``, with rows for this data's new writers and characters.

        Raises:
            ValueError: if ``start`` has another VAE, or images of another height (or width, where all
                canvases have it); its weights would not fit.
        """
        if old.vae["hash"] != self.vae["hash"]:
            raise UserError(
                f"--vae {self.vae['name']}: not the VAE of --init_from ({old.vae['name']}), whose weights fit"
                " no other latents. Leave --vae out."
            )
        if old.img_size != self.img_size and (old.canvas_step is None or old.img_size[0] != self.img_size[0]):
            raise UserError(
                f"--init_from: its images have {old.img_size[0]}x{old.img_size[1]} pixels, those of "
                f"--dataset_path {self.img_size[0]}x{self.img_size[1]}. Preprocess with --img_size "
                f"{old.img_size[0]} {old.img_size[1]}."
            )
        new = sorted(set().union(*self.texts) - set(old.charset.characters))
        charset = replace(old.charset, characters=(*old.charset.characters, *new))
        names = (*old.writers, *sorted(set(self.writers) - set(old.writers)))
        unet = grow_unet(
            start,
            num_writers=len(names),
            vocabulary_size=charset.vocabulary_size,
            max_length=self._max_length(),
        )
        width_model = fit_width_model(
            self.texts, self.writers, self.ink, self.img_size[1], prior=old.width_model
        )
        history = {"init_from": {key: old.extra.get(key) for key in ("dataset", "step", "preset")}}
        extra = {**old.extra, **self.extra, **history, "library_versions": library_versions()}
        img_size = max(old.img_size, self.img_size)  # of one height
        return unet, replace(
            old,
            charset=charset,
            writers=names,
            img_size=img_size,
            width_model=width_model,
            sample_texts=choose_sample_texts(self.texts),
            extra=extra,
        )

    def _max_length(self) -> int:
        longest = max(len(text) for text in self.texts)
        if self.max_length is not None and self.max_length < longest:
            text = max(self.texts, key=len)
            raise UserError(
                f"--max_length {self.max_length}: {text!r} has {longest} characters. Preprocess with"
                f" --max_length {self.max_length}, or give at least {longest}."
            )
        return self.max_length or longest


def choose_sample_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """At most 64 of the different texts, the same ones in whatever order they come: by their SHA-256."""
    return tuple(sorted(set(texts), key=lambda text: hashlib.sha256(text.encode()).digest())[:SAMPLE_TEXTS])


def library_versions() -> dict[str, str]:
    """Versions of the libraries that a checkpoint's numbers depend on."""
    versions = {}
    for name in ("torch", "diffusers", "accelerate", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions
