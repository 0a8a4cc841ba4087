"""``config.json``: what a checkpoint says of itself, and the check of what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from diffusion.layout import COLUMN, SHAPE_CLASSES, WidthModel, canvas_widths
from diffusion.noise_schedule import NoiseSchedule, read_schedule
from diffusion.student import STUDENT, Student, read_student
from unet import UNetConfig
from utils.charset import Charset
from utils.checkpoint import CONFIG_NAME, FORMAT_VERSION
from utils.errors import UserError
from utils.json_files import fill_dataclass

LINES = "lines"  # entry of config.json: whether the model was trained on lines
LINE_CHARACTERS = 25  # of the shortest text of several words that counts as a line
STUDENT_VERSION = 2  # format of a student's config: programs that would draw it in many steps refuse it
LINE_SHARE = 0.1  # of the texts of a training: the least that are lines where lines are learned


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What a checkpoint's ``config.json`` says besides the UNet's sizes.

    Attributes:
        img_size: (height, width) of the images, pixels.
        writers: names, in the order of their embedding rows.
        width_model: None for a model without text layout that was not given one.
        vae: ``name``, ``hash`` of the VAE that made the latents.
        canvas_step: the words' canvases are the narrowest multiples of this that hold them, in pixels; None:
            all are as wide as the images.
        sample_texts: a few of the texts that the model was trained on; what inference writes where no words
            are given. Empty in checkpoints of earlier versions.
        student: of a model that was distilled to write in a few passes; None for all others.
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
    student: Student | None = None
    extra: Mapping[str, object] = field(default_factory=dict)

    def to_dict(self, unet_config: UNetConfig) -> dict:
        """``config.json``'s content."""
        return {
            "format_version": FORMAT_VERSION if self.student is None else STUDENT_VERSION,
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
            **({} if self.student is None else {STUDENT: self.student.to_dict()}),
            **self.extra,
        }

    @classmethod
    def from_dict(cls, values: dict, where: str = CONFIG_NAME) -> tuple["CheckpointConfig", UNetConfig]:
        """Read ``config.json``'s content, each entry checked.

        Args:
            where: the file, to name in messages.
        Raises:
            UserError: if an entry is missing, wrong, or does not fit the others, or a newer version wrote it.
        """
        values = dict(values)
        version = values.pop("format_version", 0)
        if not isinstance(version, int) or version > STUDENT_VERSION:
            raise UserError(
                f"{where}: checkpoint format {version!r:.20} is newer than this program's {STUDENT_VERSION}"
            )
        kind = values.pop("kind", "diffusion")
        if kind != "diffusion":
            raise UserError(f"{where}: kind {kind!r:.40} is no handwriting generator")
        missing = [name for name in _ENTRIES if name not in values]
        if missing:
            raise UserError(f"{where}: no entry {', '.join(missing)}. Copy the checkpoint again.")
        unet_config = fill_dataclass(UNetConfig, values.pop("unet"), f"{where}: unet")
        check_sizes(unet_config, f"{where}: unet")
        names = {name: values.pop(name) for name in ("charset", "writers")}
        config = cls(
            charset=_read_charset(names["charset"], unet_config, where),
            writers=_read_writers(names["writers"], unet_config, where),
            schedule=read_schedule(values.pop("schedule"), f"{where}: schedule"),
            img_size=_read_img_size(values.pop("img_size"), where),
            width_model=_read_width_model(values.pop("width_model"), unet_config, where),
            vae=_read_vae(values.pop("vae"), where),
            canvas_step=_read_canvas_step(values.pop("canvas_step", None), where),
            sample_texts=_read_sample_texts(values.pop("sample_texts", []), where),
            student=read_student(values.pop(STUDENT, None), f"{where}: {STUDENT}"),
            extra=values,
        )
        if config.canvas_step is not None and config.width_model is None:
            raise UserError(f"{where}: canvas_step {config.canvas_step} without a width_model")
        return config, unet_config

    @property
    def writes_lines(self) -> bool:
        """Whether the model was trained on lines; a checkpoint of an earlier version tells by its texts."""
        return bool(self.extra.get(LINES, hold_lines(self.sample_texts)))

    def canvas_widths(self, rights: np.ndarray) -> np.ndarray:
        """(N,) widths in pixels of the canvases of words whose ink ends at ``rights`` (N,), in pixels."""
        if self.canvas_step is None:
            return np.full(len(rights), self.img_size[1])
        return canvas_widths(rights, self.width_model.left, self.canvas_step, self.img_size[1])


def hold_lines(texts: Sequence[str]) -> bool:
    """Whether enough of a training's texts are lines for a model to learn to write lines from them."""
    count = sum(" " in text and len(text) >= LINE_CHARACTERS for text in texts)
    return count > 0 and count >= LINE_SHARE * len(texts)


_ENTRIES = ("unet", "charset", "writers", "schedule", "img_size", "width_model", "vae")


def check_sizes(config: UNetConfig, where: str) -> None:
    """Raise a UserError for sizes of a UNet that no file has, and whose building would not end."""
    for name, most in _MOST.items():
        values = getattr(config, name)
        for value in values if isinstance(values, tuple) else (values,):
            if not 0 < value <= most:
                raise UserError(f"{where}: {name} {value} is not 1 to {most}")
    if config.style_dim is not None and not 0 < config.style_dim <= 8192:
        raise UserError(f"{where}: style_dim {config.style_dim} is not 1 to 8192")
    if config.text_encoder not in ("transformer", "published"):
        raise UserError(f"{where}: text_encoder {config.text_encoder!r:.40} is unknown")
    if not 0 <= config.pad_id < config.vocabulary_size:
        raise UserError(f"{where}: pad_id {config.pad_id} is not 0 to {config.vocabulary_size - 1}")
    if len(config.channel_mult) != 2:
        raise UserError(f"{where}: channel_mult {config.channel_mult} is not two numbers")


_MOST = {
    "num_writers": 10_000_000,
    "vocabulary_size": 1_200_000,  # more than Unicode has
    "max_length": 10_000,
    "model_channels": 8192,
    "num_heads": 1024,
    "channel_mult": 16,
    "text_layers": 64,
    "layout_channels": 8192,
    "latent_channels": 1024,
}


def _read_charset(characters: object, unet: UNetConfig, where: str) -> Charset:
    if not isinstance(characters, str):
        raise UserError(f"{where}: charset {characters!r:.60} is not a text")
    twice = sorted({character for character in characters if characters.count(character) > 1})
    if twice:
        raise UserError(f"{where}: charset has {' '.join(twice)[:60]!r} more than once")
    if len(characters) + 1 != unet.vocabulary_size:
        raise UserError(
            f"{where}: charset has {len(characters)} characters, but the model {unet.vocabulary_size - 1}"
            " (vocabulary_size without padding). Its words would be spelt wrong: copy the checkpoint again."
        )
    return Charset(characters=tuple(characters), pad_id=unet.pad_id)


def _read_writers(names: object, unet: UNetConfig, where: str) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: writers is not a list of names")
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise UserError(f"{where}: writers has {', '.join(twice)[:60]!r} more than once")
    if len(names) != unet.num_writers:
        raise UserError(
            f"{where}: writers has {len(names)} names, but the model {unet.num_writers} (num_writers). Its"
            " words would be in other hands: copy the checkpoint again."
        )
    return tuple(names)


def _is_pixels(value: object) -> bool:
    return type(value) is int and 0 < value <= 100_000 and value % COLUMN == 0


def _read_img_size(size: object, where: str) -> tuple[int, int]:
    if not isinstance(size, list) or len(size) != 2 or not all(map(_is_pixels, size)):
        raise UserError(
            f"{where}: img_size {size!r:.60} is not height and width, multiples of {COLUMN} pixels"
        )
    return size[0], size[1]


def _read_canvas_step(step: object, where: str) -> int | None:
    if step is not None and not _is_pixels(step):
        raise UserError(f"{where}: canvas_step {step!r:.60} is not a multiple of {COLUMN} pixels")
    return step


def _read_sample_texts(texts: object, where: str) -> tuple[str, ...]:
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: sample_texts {texts!r:.60} is not a list of texts")
    return tuple(texts)


def _read_width_model(values: object, unet: UNetConfig, where: str) -> WidthModel | None:
    if not values:
        if unet.text_layout:
            raise UserError(f"{where}: width_model {values!r} for a model with text_layout")
        return None
    width_model = fill_dataclass(WidthModel, values, f"{where}: width_model")
    if len(width_model.shape_scales) != SHAPE_CLASSES:
        raise UserError(
            f"{where}: width_model has {len(width_model.shape_scales)} shape_scales, not {SHAPE_CLASSES}"
        )
    numbers = [*width_model.character_widths.values(), *width_model.writer_scales.values()]
    numbers += width_model.space_scales.values()
    if not width_model.character_widths or min([*numbers, *width_model.shape_scales]) <= 0:
        raise UserError(f"{where}: width_model has widths or scales that are not above 0")
    return width_model


def _read_vae(values: object, where: str) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(values.get(key), str) for key in ("name", "hash")):
        raise UserError(f"{where}: vae {values!r:.60} has no name and hash")
    return values
