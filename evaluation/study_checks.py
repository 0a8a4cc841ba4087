"""What the augmentation study checks before its first step: its settings, and what it needs hours later."""

import json
from dataclasses import asdict
from pathlib import Path

from evaluation.study_steps import StudySettings
from htr.crnn import CRNN
from htr.recogniser import load_recogniser
from utils.charset import read_texts
from utils.checkpoint import CONFIG_NAME, list_checkpoints
from utils.errors import UserError
from utils.json_files import read_json
from utils.output import check_no_file, write_atomically
from utils.text_images import SPLITS, read_text_images

SETTINGS_NAME = "settings.json"
# Settings that another start of the same study may change: they say where and how fast, not what.
FREE_SETTINGS = ("save_path", "inference_batch_size")


def check_settings(settings: StudySettings) -> None:
    """Save the study's settings; raise UserError if the folder holds a study of other settings, or something
    else.
    """
    check_no_file(settings.save_path, "--save_path")
    path = settings.save_path / SETTINGS_NAME
    values = {
        key: str(value.resolve()) if isinstance(value, Path) else value
        for key, value in asdict(settings).items()
        if key not in FREE_SETTINGS
    }
    if path.is_file():
        old = read_json(path, "--save_path")
        # Further fractions and seeds are more of the same study.
        for key in sorted(set(values) - {"fractions", "seeds"}):
            if old.get(key) != values[key]:
                raise UserError(
                    f"--save_path {settings.save_path}: holds a study with --{key} {old.get(key)}, not"
                    f" {values[key]}. Name another folder."
                )
    elif settings.save_path.is_dir() and any(settings.save_path.iterdir()):
        raise UserError(f"--save_path {settings.save_path}: not empty, and no study. Name another folder.")
    write_atomically(path, json.dumps(values, indent=2, ensure_ascii=False))


def check_inputs(settings: StudySettings) -> None:
    """Look at all that is used hours later before anything is done.

    Raises:
        FileNotFoundError, UserError: if something is missing or can't be used, or --generator has seen the
            data set.
    """
    if settings.words_file:
        read_texts(settings.words_file)
    if settings.recogniser:
        load_recogniser(settings.recogniser)
    if settings.init_from:
        CRNN.from_pretrained(settings.init_from, flag="--init_from")
    records = read_text_images(settings.dataset_path)
    writers = {record.writer for record in records if record.split in SPLITS}
    taught = {record.writer for record in records if record.split == "train"}
    known = read_writers(settings.generator, "--generator")
    # Of several folders' writers the names may begin with the folder's.
    seen = sorted({*known, *(name.partition("/")[2] for name in known)} & writers)
    if seen:
        raise UserError(
            f"--generator {settings.generator}: was trained on writers of --dataset_path"
            f" ({', '.join(seen[:3])}), so the study would leak. Give a model that has not seen them, e.g."
            " one trained on fonts; this one can be --full_generator."
        )
    if settings.full_generator:
        unknown = sorted(taught - set(read_writers(settings.full_generator, "--full_generator")))
        if unknown:
            raise UserError(
                f"--full_generator {settings.full_generator}: does not know writers of --dataset_path by"
                f" their names ({', '.join(unknown[:3])}). Train it on this folder alone."
            )


def read_writers(model: Path, flag: str) -> list[str]:
    """The writers that a checkpoint, or the newest one of a run, was trained on.

    Raises:
        FileNotFoundError, UserError: if there is none, or it is damaged.
    """
    checkpoints = list_checkpoints(model)
    config = (checkpoints[-1] if checkpoints else model) / CONFIG_NAME
    if not config.is_file():
        raise FileNotFoundError(f"{flag} {model}: no {CONFIG_NAME} there. Give a run of train_diffusion.py.")
    writers = read_json(config, flag).get("writers", [])
    if not isinstance(writers, list):
        raise UserError(f"{flag}: {config}: damaged (writers is not a list)")
    return [str(name) for name in writers]
