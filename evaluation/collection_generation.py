"""Lines that are written for a study of one collection: by the adapted generator, and in fonts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.collection_lines import write_texts
from evaluation.collection_steps import CollectionSettings
from evaluation.fractions import copy_images
from utils.checkpoint import CONFIG_NAME, find_in_run, list_checkpoints
from utils.cli import call_script, flags
from utils.errors import UserError
from utils.json_files import read_json
from utils.output import write_atomically
from utils.text_images import METADATA_NAME, TextImage, read_text_images

PROGRESS = 30.0  # seconds between two looks at how far a script is


def _call(name: str, arguments: Sequence[object], log: Path, device: str | None) -> None:
    call_script(name, arguments, log, device, report_every=PROGRESS)


def adapt(settings: CollectionSettings, part: Path, folder: Path, device: str | None) -> list[str]:
    """Adapt the generator to the lines of ``part`` and no others.

    Returns:
        Flags of inference.py that say which model and hands write.
    """
    log = folder / "adaptation.log"
    steps = flags(max_train_steps=settings.generator_steps)
    if settings.adapt == "fit_hand":
        hands = folder / "hands"
        if not any(hands.glob("*.safetensors")):
            arguments = [
                "--init_from",
                settings.generator,
                "--fit_hand",
                hands,
                "--dataset_path",
                part,
                *steps,
            ]
            _call(
                "train_diffusion.py",
                [*arguments, *flags(mixed_precision=settings.mixed_precision)],
                log,
                device,
            )
        return ["--models_path", settings.generator, "--writer", *sorted(hands.glob("*.safetensors"))]
    model, finished = folder / "generator", folder / "generator_finished"
    if not finished.is_file():
        origin = ["--resume"] if list_checkpoints(model) else ["--init_from", settings.generator]
        arguments = ["--dataset_path", part, "--save_path", model, *origin, *steps, "--keep_checkpoints", 1]
        _call(
            "train_diffusion.py", [*arguments, *flags(mixed_precision=settings.mixed_precision)], log, device
        )
        write_atomically(finished, "")
    writers = sorted({record.writer for record in read_text_images(part)})
    return ["--models_path", model, "--writer", *writers]


def read_generator(settings: CollectionSettings) -> tuple[list[str], int]:
    """The characters that the generator can write, and its longest text.

    Raises:
        FileNotFoundError, UserError: if there is none, or it is damaged.
    """
    folder = find_in_run(settings.generator, CONFIG_NAME)
    if folder is None:
        raise FileNotFoundError(f"--generator {settings.generator}: no {CONFIG_NAME} there")
    values = read_json(folder / CONFIG_NAME, "--generator")
    try:
        return list(values["charset"]), int(values["unet"]["max_length"])
    except (KeyError, TypeError) as error:
        raise UserError(f"--generator {folder}: damaged (no {error} in {CONFIG_NAME})") from error


def write_generated(
    settings: CollectionSettings, lines: Sequence[TextImage], folder: Path, judge: Path, device: str | None
) -> Path:
    """Generated lines in the hands of ``lines``, checked by the recogniser of arm a: the share ``--keep``
    that it reads best.
    """
    kept = folder / "generated"
    if (kept / METADATA_NAME).is_file():
        return kept
    charset, longest = read_generator(settings)
    texts = write_texts(
        [line.text for line in lines],
        settings.synthetic,
        corpus=settings.corpus,
        charset=charset,
        longest=longest,
    )
    if not texts:
        raise UserError(f"--generator {settings.generator}: can't write texts like those of the collection")
    write_atomically(folder / "texts.txt", "\n".join(texts) + "\n")
    hands = adapt(settings, folder / "lines", folder, device)
    drawn = folder / "drawn"
    if not (drawn / METADATA_NAME).is_file():
        arguments = ["--unit", "line", "--words_file", folder / "texts.txt", "--save_path", drawn, *hands]
        more = flags(
            num_steps=settings.num_steps,
            batch_size=settings.inference_batch_size,
            variation=settings.variation,
            mixed_precision=settings.mixed_precision,
        )
        _call("inference.py", [*arguments, *more], folder / "drawn.log", device)
    arguments = ["--dataset_path", drawn, "--save_dir", kept, "--by", "cer", "--recogniser", judge]
    _call(
        "generation/filter_words.py",
        [*arguments, "--top", f"{100 * settings.keep:g}"],
        folder / "kept.log",
        device,
    )
    return kept


def write_fonts(folder: Path, count: int) -> Path:
    """As many font lines as there are generated ones, of the same texts."""
    target = folder / "fonts"
    if (target / METADATA_NAME).is_file():
        return target
    texts = (folder / "texts.txt").read_text(encoding="utf-8").split("\n")
    # An empty line parts texts; some are left out where no font has their characters.
    write_atomically(folder / "font_texts.txt", "\n\n".join(texts))
    drawn = folder / "fonts_drawn"
    if not (drawn / METADATA_NAME).is_file():
        arguments = ["--dataset", "fonts", "--unit", "line", "--words_file", folder / "font_texts.txt"]
        arguments += ["--num_words", count + count // 5 + 5, "--save_dir", drawn]
        _call("preprocessing/process_dataset.py", arguments, folder / "fonts.log", None)
    records = read_text_images(drawn)[:count]
    copy_images(drawn, [replace(record, split="train") for record in records], target)
    return target
