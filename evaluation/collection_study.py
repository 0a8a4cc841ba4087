"""The study of one collection: recognisers fine-tuned on few of its lines, alone or after generated ones."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from evaluation.collection_generation import read_generator, write_fonts, write_generated
from evaluation.collection_lines import draw_lines, read_collection
from evaluation.collection_report import render_collection, render_markdown, summarise_classes
from evaluation.collection_steps import (
    ARMS,
    BOTH,
    FONTS,
    GENERATED,
    PSEUDO,
    READINGS_NAME,
    REAL,
    SECONDS_NAME,
    UPPER,
    CollectionSettings,
    Course,
    choose_course,
    copy_lines,
    fine_tune_recogniser,
    label_lines,
    save_readings,
    settings_of,
    timed,
)
from evaluation.study import UNITS, Arm, RunErrors, summarise
from htr.crnn import CRNN
from utils.device import name_gpu
from utils.errors import UserError
from utils.json_files import read_json
from utils.output import check_no_file, lock_folder, write_atomically
from utils.text_images import TextImage, read_text_images

SETTINGS_NAME = "settings.json"
STUDY_NAME, REPORT_NAME, MARKDOWN_NAME = "study.json", "report.html", "report.md"
FREE_SETTINGS = ("save_path", "inference_batch_size", "items", "seeds")  # another start may change these


def run_collection_study(
    settings: CollectionSettings, device: torch.device, report: Callable[[str], None]
) -> None:
    """All steps that are not done yet, and the report.

    Raises:
        FileNotFoundError, UserError: if something is missing, or the folder holds another study.
    """
    records = read_collection(settings.collection, one_hand=settings.one_hand)
    train = [record for record in records if record.split == "train"]
    draw_lines(train, max(settings.items))
    read_generator(settings)
    CRNN.from_pretrained(settings.init_from, flag="--init_from")
    with lock_folder(settings.save_path, "--save_path"):
        check_collection_settings(settings)
        pretrained = settings.save_path / "pretrained"
        if not (pretrained / READINGS_NAME).is_file():
            save_readings(pretrained, settings.init_from, settings.collection, device)
        courses = {}
        for count in settings.items:
            courses[count] = _study_items(settings, draw_lines(train, count), train, device, report)
        folder = settings.save_path / "upper"
        copy_lines(settings, train, folder / "lines")
        with timed(folder, "recognisers"):
            for seed in range(settings.seeds):
                report(f"recogniser  {UPPER.name}, seed {seed}")
                run_arm(settings, folder, UPPER, seed, courses[max(courses)], folder / "lines", [], device)
        write_results(settings, train)


def _items_folder(settings: CollectionSettings, count: int) -> Path:
    return settings.save_path / f"items_{count:05d}"


def _study_items(
    settings: CollectionSettings,
    lines: Sequence[TextImage],
    train: Sequence[TextImage],
    device: torch.device,
    report: Callable[[str], None],
) -> Course:
    """Arms a to c, e and f with these lines; the others of ``train`` have no texts here."""
    count, gpu = len(lines), name_gpu(device)
    folder = _items_folder(settings, count)
    copy_lines(settings, lines, folder / "lines")
    report(f"lines       {count}: rate and steps are chosen on a part of them")
    with timed(folder, "choice of rate and steps"):
        course = choose_course(settings, lines, folder, device)
    report(f"course      {course.steps} steps, learning rate {course.learning_rate:g}")
    with timed(folder, "recognisers"):
        for seed in range(settings.seeds):
            report(f"recogniser  {REAL.name}, {count} lines, seed {seed}")
            run_arm(settings, folder, REAL, seed, course, folder / "lines", [], device)
    report(f"generator   adapted to {count} lines, {settings.synthetic} lines to write")
    with timed(folder, "adaptation and generation"):
        judge = folder / f"{REAL.slug}-0"
        generated = write_generated(settings, lines, folder, judge, gpu)
        number = sum(1 for _ in (generated / "metadata.jsonl").open(encoding="utf-8"))
        fonts = write_fonts(folder, number)
    at_hand = {line.file_name for line in lines}
    others = [line for line in train if line.file_name not in at_hand]
    with timed(folder, "reading of other lines"):
        pseudo = label_lines(settings, others, folder, judge, device)
    read = [pseudo] if pseudo.is_dir() else []  # without other lines, arm e is arm a, and f is c
    firsts = ((FONTS, [fonts]), (GENERATED, [generated]), (PSEUDO, read), (BOTH, [generated, *read]))
    with timed(folder, "recognisers"):
        for arm, first in firsts:
            for seed in range(settings.seeds):
                report(f"recogniser  {arm.name}, {count} lines, seed {seed}")
                run_arm(settings, folder, arm, seed, course, folder / "lines", first, device)
    return course


def run_arm(
    settings: CollectionSettings,
    folder: Path,
    arm: Arm,
    seed: int,
    course: Course,
    lines: Path,
    first: Sequence[Path],
    device: torch.device,
) -> None:
    """One recogniser: all its steps on real lines, or the first part of as many on folders of others and real
    ones.
    """
    target = folder / f"{arm.slug}-{seed}"
    if (target / READINGS_NAME).is_file():
        return
    start, steps, seconds = settings.init_from, course.steps, 0.0
    if first:
        before = max(1, round(settings.first_share * steps))
        start, steps = folder / f"{arm.starts_from}-{seed}", max(1, steps - before)
        part = Course(steps=before, learning_rate=course.learning_rate)
        results = fine_tune_recogniser(
            settings,
            start,
            mix_lines(first, lines, settings.first_real),
            settings.init_from,
            settings_of(settings, part, seed),
            device,
        )
        seconds += results["seconds"]
    part = Course(steps=steps, learning_rate=course.learning_rate)
    results = fine_tune_recogniser(
        settings, target, [str(lines)], start, settings_of(settings, part, seed), device
    )
    save_readings(
        target,
        target,
        settings.collection,
        device,
        trained_on=results["words"],
        seconds=round(seconds + results["seconds"], 1),
    )


def mix_lines(first: Sequence[Path], lines: Path, share: float) -> list[str]:
    """Folders whose lines make one training, ``share`` of them real, of the others as many of each folder."""
    counts = {folder: len(read_text_images(folder)) for folder in (*first, lines)}
    most = max(counts[folder] for folder in first)
    shares = {folder: most / counts[folder] for folder in first}
    if share:
        shares[lines] = len(first) * most * share / (1 - share) / counts[lines]
    return [f"{folder}:{times:.4f}" for folder, times in shares.items()]


def collect_runs(settings: CollectionSettings, lines_of_train: int) -> list[RunErrors]:
    """What each recogniser read wrong; the upper bound stands at each number of lines."""
    runs = []
    for count in settings.items:
        for arm in ARMS:
            folder = settings.save_path / "upper" if arm is UPPER else _items_folder(settings, count)
            for seed in range(settings.seeds):
                values = read_json(folder / f"{arm.slug}-{seed}" / READINGS_NAME)
                missing = [name for name in (*UNITS, "trained_on", "seconds") if name not in values]
                if missing:
                    raise UserError(
                        f"{folder / arm.slug}-{seed}/{READINGS_NAME}: damaged, no entry {missing[0]}"
                    )
                runs.append(
                    RunErrors(
                        arm=arm,
                        fraction=count,
                        seed=seed,
                        characters=values["characters"],
                        words=values["words"],
                        trained_on=lines_of_train if arm is UPPER else count,
                        seconds=values["seconds"],
                    )
                )
    return runs


def write_results(settings: CollectionSettings, train: Sequence[TextImage]) -> None:
    """``study.json``, ``report.html`` and ``report.md``, and the table on the terminal."""
    study = summarise(collect_runs(settings, len(train)), ARMS, (REAL, FONTS))
    start = read_json(settings.save_path / "pretrained" / READINGS_NAME)
    pretrained = sum(start["characters"][0]) / sum(start["characters"][1])
    classes = summarise_classes(
        {
            (count, arm.name): [
                read_json(_items_folder(settings, count) / f"{arm.slug}-{seed}" / READINGS_NAME)
                for seed in range(settings.seeds)
            ]
            for count in settings.items
            for arm in ARMS
            if arm is not UPPER
        },
        {count: [line.text for line in draw_lines(train, count)] for count in settings.items},
    )
    folders = [*(_items_folder(settings, count) for count in settings.items), settings.save_path / "upper"]
    seconds = {folder.name: read_json(folder / SECONDS_NAME) for folder in folders}
    values = {"study": study, "classes": classes, "pretrained": pretrained, "seconds": seconds}
    content = {"settings": _as_values(settings), **values, "study": study.as_json()}
    write_atomically(settings.save_path / STUDY_NAME, json.dumps(content, indent=2, default=asdict) + "\n")
    write_atomically(
        settings.save_path / REPORT_NAME, render_collection(settings=_as_values(settings), **values)
    )
    markdown = render_markdown(**values)
    write_atomically(settings.save_path / MARKDOWN_NAME, markdown)
    print(markdown)
    print(f"saved       {settings.save_path}: {REPORT_NAME}, {MARKDOWN_NAME}, {STUDY_NAME}")


def _as_values(settings: CollectionSettings) -> dict:
    """The settings as JSON-able values."""
    return {
        key: str(value.resolve())
        if isinstance(value, Path)
        else list(value)
        if isinstance(value, tuple)
        else value
        for key, value in asdict(settings).items()
    }


def check_collection_settings(settings: CollectionSettings) -> None:
    """Save the study's settings; raise UserError if the folder holds a study of other settings, or something
    else.
    """
    check_no_file(settings.save_path, "--save_path")
    path = settings.save_path / SETTINGS_NAME
    values = {key: value for key, value in _as_values(settings).items() if key not in FREE_SETTINGS}
    if path.is_file():
        old = read_json(path, "--save_path")
        for key in sorted(values):
            if old.get(key) != values[key]:
                raise UserError(
                    f"--save_path {settings.save_path}: holds a study with --{key} {old.get(key)}, not"
                    f" {values[key]}. Name another folder."
                )
    elif any(not child.name.startswith(".lock") for child in settings.save_path.iterdir()):
        raise UserError(f"--save_path {settings.save_path}: not empty, and no study. Name another folder.")
    write_atomically(path, json.dumps(values, indent=2, ensure_ascii=False))
