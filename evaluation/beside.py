"""The scores that papers on handwriting report, HWD, FID, BFID and ΔCER, of several systems side by side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.comparison import compare_folders
from evaluation.evaluation import METRICS, Evaluation, Judges
from evaluation.image_sets import is_author_folder, read_records
from evaluation.measures import LeftOut, Results
from utils.bootstrap import Bootstrap
from utils.errors import UserError

# The measures that take images of any height, and so the folders that others publish.
FIELD_METRICS = ("hwd", "squares", "legibility")


def add_implied(metrics: Sequence[str] | None, *, has_recogniser: bool) -> tuple[str, ...] | None:
    """The measures that ``--metrics`` means: with HWD come those that are reported beside it, if possible."""
    if not metrics or "hwd" not in metrics:
        return tuple(metrics) if metrics else None
    return tuple(dict.fromkeys([*metrics, "squares", *(["legibility"] if has_recogniser else [])]))


def check_folders(folders: Sequence[tuple[str, Path]], metrics: Sequence[str] | None) -> bool:
    """Whether the images may have any height: only measures of ``FIELD_METRICS`` are wanted.

    Args:
        folders: each with the flag that names it.
    Raises:
        UserError: if one is a folder of authors, and other measures are wanted of it; or two of ``--beside``
            have one name.
    """
    names = Counter(folder.name for flag, folder in folders if flag == "--beside")
    for flag, folder in folders:
        if names[folder.name] > 1:
            raise UserError(f"{flag} {folder}: another folder is called {folder.name}, too. Rename one.")
    if metrics and set(metrics) <= set(FIELD_METRICS):
        return True
    for flag, folder in folders:
        if flag != "--beside" and is_author_folder(folder):
            raise UserError(
                f"{flag} {folder}: a folder of authors, which --metrics hwd takes alone. For other measures,"
                " make a folder of text images with preprocessing/process_dataset.py."
            )
    return False


def count_shared(folders: Sequence[tuple[str, Path]]) -> dict[str, int]:
    """How many images of each writer all folders have: the same number is drawn of each, so that their
    distances compare.

    Args:
        folders: of generated images, each with the flag that names it.
    """
    counts = [Counter(record.writer for record in read_records(path, flag=flag)) for flag, path in folders]
    return {name: min(count[name] for count in counts) for name in counts[0]}


def measure_beside(
    real: Path,
    others: Sequence[Path],
    judges: Judges,
    bootstrap: Bootstrap,
    *,
    limits: dict[str, int],
    split: str | None,
    most: int | None,
    seed: int,
) -> Results:
    """The scores of other systems' images, under the names of their folders, with notes on what they lack.

    Args:
        others: folders of generated images.
        limits: most images of each writer; see ``count_shared``.
        split, most, seed: as of ``compare_folders``.
    """
    results = Results()
    for folder in others:
        pair = compare_folders(
            real,
            folder,
            split=split,
            most=most,
            seed=seed,
            is_of_one_height=False,
            limits=limits,
            flag="--beside",
        )
        evaluation = Evaluation(pair, judges, bootstrap)
        has_texts = any(record.text for record in pair.generated.records)
        for name in FIELD_METRICS:
            if name == "legibility" and not (judges.recognisers and has_texts):
                results.notes.append(f"{folder.name}: ΔCER needs --recogniser and texts")
                continue
            try:
                METRICS[name](evaluation)
            except LeftOut as reason:
                results.notes.append(f"{folder.name}: {reason}")
        results.measures += [
            replace(measure, key=f"{measure.key}/{folder.name}", label=f"{measure.label}, {folder.name}")
            for measure in evaluation.results.measures
        ]
    return results
