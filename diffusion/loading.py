"""A generator from disk: which folder it is in, its configuration held against its tensors, all its parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from diffusion.autoencoder import VAE_FOLDER, hash_vae, load_vae
from diffusion.config import CheckpointConfig
from diffusion.latent_recogniser import LATENT_RECOGNISER_FOLDER, LatentRecogniser
from diffusion.noise_schedule import make_schedule
from diffusion.presets import make_config
from diffusion.published import PUBLISHED_CHARACTERS, PUBLISHED_PAD_ID, find_published, load_published
from feature_extractor import StyleEncoder
from unet import UNet, UNetConfig
from utils.charset import Charset
from utils.checkpoint import (
    CONFIG_NAME,
    TEACHER_FOLDER,
    WEIGHTS_NAME,
    find_in_run,
    find_part,
    load_weights,
    one_line,
    read_shapes,
)
from utils.errors import UserError
from utils.json_files import read_json

STYLE_ENCODER_FOLDER = "style_encoder"  # of a checkpoint


def find_checkpoint(models_path: Path, *, flag: str = "--models_path") -> Path:
    """The checkpoint folder that ``flag`` means: itself, or a run's newest whole one.

    Raises:
        FileNotFoundError: if there is none.
    """
    if not models_path.is_dir():
        raise FileNotFoundError(f"{flag} {models_path}: no such folder")
    folder = find_in_run(models_path, WEIGHTS_NAME, CONFIG_NAME)
    if folder is None:
        raise FileNotFoundError(
            f"{flag} {models_path}: no step_* folder with {CONFIG_NAME} and {WEIGHTS_NAME}, and no published "
            "models/ema_ckpt.pt. Pass a checkpoint, or the --save_path of a run that has saved one."
        )
    return folder


def find_teacher(models_path: Path, *, flag: str) -> Path:
    """What a training starts from: the teacher that a student has with it, else the model itself.

    Raises:
        FileNotFoundError: if there is no checkpoint.
    """
    if models_path.is_dir() and find_published(models_path) is not None:
        return models_path
    teacher = find_checkpoint(models_path, flag=flag) / TEACHER_FOLDER
    return teacher if (teacher / WEIGHTS_NAME).is_file() else models_path


def read_config(folder: Path, *, flag: str = "--models_path") -> tuple[CheckpointConfig, UNetConfig]:
    """A checkpoint's configuration.

    Raises:
        UserError: if an entry of ``config.json`` is missing or wrong; the message names file and entry.
    """
    path = folder / CONFIG_NAME
    return CheckpointConfig.from_dict(read_json(path, flag), f"{flag} {path}")


def load_unet(folder: Path, config: UNetConfig, *, flag: str = "--models_path") -> UNet:
    """The UNet of a checkpoint, in float32, on the CPU.

    Raises:
        UserError: if its tensors are damaged, or not of the sizes that ``config.json`` names.
    """
    path = folder / WEIGHTS_NAME
    try:
        _check_shapes(read_shapes(path), config, f"{flag} {folder}")
        unet = UNet(config)
        unet.load_state_dict(load_weights(path))
    except UserError:
        raise
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise UserError(f"{flag} {folder}: {WEIGHTS_NAME} is damaged ({one_line(error)})") from error
    return unet


def _check_shapes(shapes: dict[str, tuple[int, ...]], config: UNetConfig, where: str) -> None:
    """Raise a UserError unless a UNet of ``config`` has tensors of just these shapes; it takes no memory."""
    try:
        with torch.device("meta"):
            expected = {name: tuple(value.shape) for name, value in UNet(config).state_dict().items()}
    except (ValueError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{where}/{CONFIG_NAME}: unet can't be built ({one_line(error)})") from error
    for name in sorted(set(expected) | set(shapes)):
        if expected.get(name) != shapes.get(name):
            has, needs = shapes.get(name, "nothing"), expected.get(name, "nothing")
            raise UserError(
                f"{where}: {CONFIG_NAME} and {WEIGHTS_NAME} don't belong together: {name} has {has} there,"
                f" and unet in {CONFIG_NAME} means {needs}. Copy the checkpoint again."
            )


@dataclass(frozen=True, kw_only=True)
class Generator:
    """The parts of a generator, as they were saved; see ``pipeline.HandwritingPipeline``."""

    unet: UNet
    vae: nn.Module
    config: CheckpointConfig
    latent_recogniser: LatentRecogniser | None = None
    style_encoder: StyleEncoder | None = None


def load_checkpoint(
    models_path: Path, *, vae: str | Path | None, warn: Callable[[str], None], flag: str
) -> Generator:
    """A checkpoint, or a run's newest one.

    Args:
        vae: another VAE than the checkpoint names.
        warn: takes a line of warning if it is not the one of the training.
        flag: the command line flag to name in messages.
    Raises:
        FileNotFoundError: if there is none.
        UserError: if a part of it is damaged, or another model's.
    """
    folder = find_checkpoint(models_path, flag=flag)
    config, unet_config = read_config(folder, flag=flag)
    unet = load_unet(folder, unet_config, flag=flag)
    saved_vae = find_part(folder, VAE_FOLDER)
    name = vae or (saved_vae if saved_vae.is_dir() else config.vae["name"])
    loaded = load_vae(name)
    if hash_vae(loaded) != config.vae["hash"]:
        if vae is None:
            raise UserError(
                f"{flag} {folder}: its VAE {name} has changed since training. Give the right one with --vae."
            )
        warn(f"warning: --vae {vae} is not the VAE that this model was trained with ({config.vae['name']})")
    recogniser = _load_recogniser(folder, config, flag)
    return Generator(
        unet=unet,
        vae=loaded,
        config=config,
        latent_recogniser=recogniser,
        style_encoder=load_style_encoder(folder, config, unet_config, flag=flag),
    )


def load_style_encoder(
    folder: Path, config: CheckpointConfig, unet_config: UNetConfig, *, flag: str
) -> StyleEncoder | None:
    """The style encoder of a checkpoint; None for a model without style vectors.

    Raises:
        FileNotFoundError: if a model with style vectors has none.
        UserError: if it is damaged, or another model's.
    """
    if unet_config.style_dim is None:
        return None
    encoder = StyleEncoder.from_pretrained(find_part(folder, STYLE_ENCODER_FOLDER), flag=flag)
    check_style_encoder(encoder, config, unet_config, f"{flag} {folder}: {STYLE_ENCODER_FOLDER}/")
    return encoder


def check_style_encoder(
    encoder: StyleEncoder, config: CheckpointConfig, unet_config: UNetConfig, where: str
) -> None:
    """Raise a UserError unless a style encoder's vectors and images have a model's sizes."""
    sizes = {
        "style vectors' length": (encoder.config.style_dim, unet_config.style_dim),
        "images' height": (encoder.config.img_size[0], config.img_size[0]),
    }
    for what, (has, needs) in sizes.items():
        if has != needs:
            raise UserError(f"{where} is another model's: its {what} is {has}, and the model's {needs}")


def _load_recogniser(folder: Path, config: CheckpointConfig, flag: str) -> LatentRecogniser | None:
    """The latent recogniser of a checkpoint, if it has one."""
    saved = find_part(folder, LATENT_RECOGNISER_FOLDER)
    if not (saved / CONFIG_NAME).is_file():
        return None
    recogniser = LatentRecogniser.from_pretrained(saved)
    if recogniser.config.vocabulary_size != config.charset.vocabulary_size:
        raise UserError(
            f"{flag} {folder}: {LATENT_RECOGNISER_FOLDER}/ is another model's: it reads"
            f" {recogniser.config.vocabulary_size - 1} characters, not"
            f" {config.charset.vocabulary_size - 1}. Remove it, or copy the checkpoint again."
        )
    return recogniser


def load_published_generator(
    path: Path,
    *,
    vae: str | Path | None,
    writer_dict: Mapping[str, int] | None,
    max_length: int | None,
    flag: str,
) -> Generator:
    """The published weights with the facts that their file leaves out.

    Args:
        vae: needed, since the weights name none.
        writer_dict: names to rows; without, writers are called by their numbers.
        max_length: positions, where they are not 10.
    Raises:
        UserError: if the file is something else, or an argument does not fit it.
    """
    if vae is None:
        raise UserError(
            f"{flag} {path}: published weights don't hold their VAE. Give it with --vae, e.g. "
            "--vae stable-diffusion-v1-5/stable-diffusion-v1-5."
        )
    fields, state_dict = load_published(path, max_length=max_length, flag=flag)
    if fields["vocabulary_size"] != len(PUBLISHED_CHARACTERS) + 1:
        raise UserError(
            f"{flag} {path}: {fields['vocabulary_size']} symbols; only the published 52 letters "
            "and padding are known"
        )
    sizes = {name: fields[name] for name in ("num_writers", "vocabulary_size", "max_length")}
    try:
        unet = UNet(replace(make_config("wordstylist", **sizes), **fields))
        unet.load_state_dict(state_dict)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{flag} {path}: not the published UNet's weights ({one_line(error)})") from error
    loaded = load_vae(vae)
    config = CheckpointConfig(
        charset=Charset(characters=PUBLISHED_CHARACTERS, pad_id=PUBLISHED_PAD_ID),
        writers=_name_rows(fields["num_writers"], writer_dict or {}),
        schedule=make_schedule("epsilon"),
        img_size=(64, 256),
        width_model=None,
        vae={"name": str(vae), "hash": hash_vae(loaded)},
        extra={"preset": "wordstylist", "source": "published weights"},
    )
    return Generator(unet=unet, vae=loaded, config=config)


def _name_rows(count: int, writer_dict: Mapping[str, int]) -> tuple[str, ...]:
    """Names of the writers' rows: their numbers, where no other is given."""
    names = [str(i) for i in range(count)]
    for name, row in writer_dict.items():
        if not isinstance(row, int) or not 0 <= row < count:
            raise UserError(f"--writer_dict: {name!r} has row {row}, but the weights have {count} writers")
        names[row] = str(name)
    return tuple(names)
