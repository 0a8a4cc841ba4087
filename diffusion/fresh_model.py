"""How a training's model begins: new, of a preset, grown from another, or as a run left it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from diffusion.config import LINES, CheckpointConfig, hold_lines
from diffusion.layout import CANVAS_STEP, fit_width_model
from diffusion.loading import read_config
from diffusion.noise_schedule import make_schedule
from diffusion.presets import make_config
from unet import UNet, grow_unet
from utils.charset import Charset
from utils.errors import UserError

SAMPLE_TEXTS = 64  # of the training texts, that a checkpoint carries


@dataclass(frozen=True, kw_only=True)
class FreshModel:
    """What a new model's sizes and names are taken from.

    Attributes:
        texts, writers, ink: of the training records; ink (N, 4) in pixels.
        img_size: (height, width), pixels.
        max_length: longest text, or None: the longest there is.
        vae: name and hash of the VAE.
        latent_channels: of the VAE's latents.
        extra: further entries of ``config.json``.
        style_dim: length of the style vectors of a new model, or of one that grows into taking hands from
            images; None for one without.
    """

    texts: Sequence[str]
    writers: Sequence[str]
    ink: np.ndarray
    img_size: tuple[int, int]
    max_length: int | None
    vae: dict[str, str]
    latent_channels: int
    extra: dict[str, object]
    style_dim: int | None = None

    def build(self, preset: str, prediction_type: str, **changes) -> tuple[UNet, CheckpointConfig]:
        """A UNet of a preset for this data; ``changes`` override single fields of ``UNetConfig``."""
        charset, names = Charset.from_texts(self.texts), tuple(sorted(set(self.writers)))
        unet_config = make_config(
            preset,
            num_writers=len(names),
            vocabulary_size=charset.vocabulary_size,
            max_length=self._max_length(),
            style_dim=self.style_dim,
            latent_channels=self.latent_channels,
            **changes,
        )
        width_model = fit_width_model(self.texts, self.writers, self.ink, self.img_size[1])
        # A layout says how wide a word will be; a centred word has its place from the whole width.
        canvas_step = CANVAS_STEP if unet_config.text_layout and not width_model.is_centered else None
        config = CheckpointConfig(
            charset=charset,
            writers=names,
            schedule=make_schedule(prediction_type),
            img_size=self.img_size,
            width_model=width_model,
            vae=self.vae,
            canvas_step=canvas_step,
            sample_texts=choose_sample_texts(self.texts),
            extra={
                "preset": preset,
                LINES: hold_lines(self.texts),
                **self.extra,
                "library_versions": library_versions(),
            },
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
        new_characters = sorted(set().union(*self.texts) - set(old.charset.characters))
        charset = replace(old.charset, characters=(*old.charset.characters, *new_characters))
        names = (*old.writers, *sorted(set(self.writers) - set(old.writers)))
        unet = grow_unet(
            start,
            num_writers=len(names),
            vocabulary_size=charset.vocabulary_size,
            max_length=self._max_length(),
            style_dim=self.style_dim,
        )
        width_model = fit_width_model(
            self.texts, self.writers, self.ink, self.img_size[1], prior=old.width_model
        )
        history = {"init_from": {key: old.extra.get(key) for key in ("dataset", "step", "preset")}}
        # A short training on words does not take the lines away.
        lines = {LINES: old.writes_lines or hold_lines(self.texts)}
        extra = {**old.extra, **lines, **self.extra, **history, "library_versions": library_versions()}
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


def resume_model(
    checkpoint: Path, given: Mapping[str, object], fresh: FreshModel
) -> tuple[UNet, CheckpointConfig]:
    """The UNet of a checkpoint to go on from, whose weights are to be loaded, and its config.

    Args:
        given: flags of the model's sizes by name, None where not given.
        fresh: the data that it goes on with.
    Raises:
        UserError: if a flag, the VAE or the data does not fit the run.
    """
    config, unet_config = read_config(checkpoint, flag="--resume")
    if config.vae["hash"] != fresh.vae["hash"]:
        raise UserError(
            f"--vae {fresh.vae['name']}: not the VAE that this run was trained with ({config.vae['name']})"
        )
    of_run = {
        **unet_config.to_dict(),
        "preset": config.extra.get("preset"),
        "prediction_type": config.schedule.prediction_type,
    }
    for name, value in given.items():
        if value not in (None, of_run[name]):
            raise UserError(f"--{name} {value}: the run to --resume has {of_run[name]}. Leave it out.")
    unknown = {
        "characters": set().union(*fresh.texts) - set(config.charset.characters),
        "writers": set(fresh.writers) - set(config.writers),
    }
    for kind, names in unknown.items():
        if names:
            raise UserError(
                f"--resume: the word folder has {kind} that the run does not know: {sorted(names)[:10]}."
                " Start a new run from it with --init_from."
            )
    return UNet(unet_config), config


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
