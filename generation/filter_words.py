"""Keep the best part of a generated word folder, by how well its words are read or how near they are to real
ones.

  python3 generation/filter_words.py --dataset_path data/synthetic --save_dir data/top90 --by confidence
  --recogniser runs/htr --top 90 python3 generation/filter_words.py --dataset_path data/synthetic --save_dir
  data/top50 --by nmae --reference data/iam --top 50 python3 generation/filter_words.py --dataset_path
  data/synthetic --save_dir data/legible --by cer --recogniser rapidocr --threshold 0

The source is only read. What was dropped and why stands in dropped.jsonl and filter_summary.json; an
interrupted run goes on when it is started again. The recogniser that filters must not be the one that judges
the result.
"""

import argparse
import json
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import numpy as np
from tqdm import tqdm

from htr.error_rates import NORMALISERS, character_error_rates
from htr.recogniser import CHOICES, Recogniser, load_recogniser
from utils.cli import run
from utils.errors import UserError
from utils.images import pixel_difference
from utils.output import write_atomically
from utils.sources import read_image
from utils.text_images import (
    FILTER_SETTINGS,
    INFERENCE_SETTINGS,
    SPLITS,
    TextImage,
    prepare_output,
    read_jsonl,
    read_text_images,
    write_metadata,
)

SUMMARY_NAME = "filter_summary.json"
SCORES_NAME = "scores.jsonl"
DROPPED_NAME = "dropped.jsonl"
HIGHER_IS_BETTER = {"confidence": True, "cer": False, "nmae": False}
CHUNK = 256  # words that are read, and noted, together


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_path", type=Path, required=True, help="the word folder to filter")
    parser.add_argument("--save_dir", type=Path, required=True, help="the word folder to write")
    parser.add_argument("--overwrite", action="store_true", help="make --save_dir anew")
    group = parser.add_argument_group("score")
    group.add_argument(
        "--by",
        choices=tuple(HIGHER_IS_BETTER),
        required=True,
        help=(
            "confidence: the recogniser's, the product "
            "of its characters' probabilities; cer: character errors a character; nmae: mean absolute pixel "
            "difference (0 to 1) from the record of the same name in --reference"
        ),
    )
    group.add_argument(
        "--recogniser",
        metavar="NAME",
        help=f"{CHOICES} (default: the scores that inference.py --recogniser left in the metadata)",
    )
    group.add_argument(
        "--normalise",
        choices=tuple(NORMALISERS),
        default="exact",
        help=(
            "for cer: compare texts exactly, or their letters and digits without case (default: %(default)s)"
        ),
    )
    group.add_argument("--reference", type=Path, help="for nmae: the word folder of the real words")
    group = parser.add_argument_group("keep")
    group.add_argument("--top", type=float, metavar="PERCENT", help="the best PERCENT of the words")
    group.add_argument(
        "--threshold", type=float, help="words with at least this confidence, or at most this cer or nmae"
    )
    group.add_argument(
        "--balance",
        nargs="+",
        choices=("writer", "length"),
        default=[],
        help="with --top: the same percentage of each writer's words, of each length's, or of both",
    )
    group.add_argument("--split", choices=SPLITS, help="only words of this split (default: all)")
    args = parser.parse_args(argv)
    if (args.top is None) == (args.threshold is None):
        parser.error("give --top or --threshold, one of them")
    if args.top is not None and not 0 < args.top <= 100:
        parser.error(f"--top {args.top:g}: a percentage above 0, at most 100")
    if args.threshold is not None and args.balance:
        parser.error(f"--balance {' '.join(args.balance)}: goes with --top")
    if args.by == "nmae" and (args.reference is None or args.recogniser):
        parser.error("--by nmae: goes with --reference, and without --recogniser")
    if args.by != "nmae" and args.reference:
        parser.error(f"--reference {args.reference}: goes with --by nmae")
    return args


def score_by_reading(
    records: Sequence[TextImage], folder: Path, recogniser: Recogniser, normalise: str
) -> list[dict]:
    """``confidence``, ``cer`` and ``reading`` of words; ``reason`` of those whose image is missing or
    damaged.
    """
    scores: list[dict] = [{} for _ in records]
    images, rows = [], []
    for row, record in enumerate(records):
        try:
            images.append(read_image(folder / record.file_name))
            rows.append(row)
        except (ValueError, FileNotFoundError):
            scores[row] = {"reason": "damaged_image"}
    readings = recogniser.read(images) if images else []
    rates = character_error_rates(
        [records[row].text for row in rows], [reading.text for reading in readings], normalise
    )
    for row, reading, rate in zip(rows, readings, rates.tolist(), strict=True):
        scores[row] = {
            "confidence": round(reading.confidence, 4),
            "cer": round(rate, 4),
            "reading": reading.text,
        }
    return scores


def score_by_pixels(
    records: Sequence[TextImage], folder: Path, reference: Path, names: set[str]
) -> list[dict]:
    """``nmae`` of words; ``reason`` of those without a record of the same name, or with a damaged image."""
    scores = []
    for record in records:
        if record.file_name not in names:
            scores.append({"reason": "no_reference"})
            continue
        try:
            pair = [read_image(root / record.file_name) for root in (folder, reference)]
        except (ValueError, FileNotFoundError):
            scores.append({"reason": "damaged_image"})
            continue
        if pair[0].shape[0] != pair[1].shape[0]:
            raise UserError(
                f"--reference {reference}: {record.file_name} is {pair[1].shape[0]} pixels high, that of "
                f"--dataset_path {pair[0].shape[0]}. Preprocess both with one --img_size."
            )
        scores.append({"nmae": round(pixel_difference(*pair), 5)})
    return scores


def score_words(args: argparse.Namespace, records: Sequence[TextImage]) -> dict[str, dict]:
    """The score, or the reason for not having one, of each word by file name.

    Raises:
        ValueError: if there is neither a recogniser nor a score in the metadata.
    """
    if args.by != "nmae" and not args.recogniser:
        if not all(args.by in record.extra for record in records):
            raise UserError(
                f"--by {args.by}: the words of {args.dataset_path} have no such score yet. Give --recogniser."
            )
        return {record.file_name: dict(record.extra) for record in records}
    noted = args.save_dir / SCORES_NAME
    scores = {values.pop("file_name"): values for values in read_jsonl(noted)}
    missing = [record for record in records if record.file_name not in scores]
    names, recogniser = set(), None
    if args.by == "nmae":
        names = {record.file_name for record in read_text_images(args.reference, flag="--reference")}
        if not names & {record.file_name for record in records}:
            raise UserError(
                f"--reference {args.reference}: no record has the name of one in {args.dataset_path}."
                " Generated words are paired with real ones by inference.py --dataset_path REAL."
            )
    else:
        recogniser = load_recogniser(args.recogniser)
    with tqdm(total=len(records), initial=len(scores), unit="word", desc="score") as bar:
        for first in range(0, len(missing), CHUNK):
            chunk = missing[first : first + CHUNK]
            found = (
                score_by_reading(chunk, args.dataset_path, recogniser, args.normalise)
                if recogniser
                else score_by_pixels(chunk, args.dataset_path, args.reference, names)
            )
            with noted.open("a", encoding="utf-8") as file:
                file.write("\n")  # behind a line that a kill cut off
                for record, score in zip(chunk, found, strict=True):
                    scores[record.file_name] = score
                    file.write(
                        json.dumps({"file_name": record.file_name, **score}, ensure_ascii=False) + "\n"
                    )
            bar.update(len(chunk))
    return scores


def choose_best(
    records: Sequence[TextImage], scores: dict[str, dict], by: str, top: float, balance: Sequence[str] = ()
) -> set[str]:
    """File names of the best words: ``top`` percent of all, and as nearly as whole words allow of each group.

    Args:
        balance: ``writer`` and ``length`` (of the text): what a group has in common.
    """
    groups: dict[tuple, list[TextImage]] = defaultdict(list)
    for record in records:
        values = {"writer": record.writer, "length": len(record.text)}
        groups[tuple(values[name] for name in balance)].append(record)
    sign = -1 if HIGHER_IS_BETTER[by] else 1
    chosen: set[str] = set()
    seen = 0
    for _, group in sorted(groups.items()):
        seen += len(group)
        # Rounded over the running sum: small groups would else all round the same way.
        count = round(seen * top / 100) - len(chosen)
        ranked = sorted(group, key=lambda record: (sign * scores[record.file_name][by], record.file_name))
        chosen |= {record.file_name for record in ranked[:count]}
    return chosen


def main(args: argparse.Namespace) -> None:
    """Score, choose, copy."""
    if args.save_dir.resolve() == args.dataset_path.resolve():
        raise UserError(f"--save_dir {args.save_dir}: is --dataset_path. Name another folder.")
    records = read_text_images(args.dataset_path, splits=[args.split] if args.split else [])
    settings = {
        "dataset_path": str(args.dataset_path.resolve()),
        "words": len(records),
        "by": args.by,
        "recogniser": args.recogniser,
        "normalise": args.normalise,
        "reference": str(args.reference.resolve()) if args.reference else None,
        "top": args.top,
        "threshold": args.threshold,
        "balance": args.balance,
        "split": args.split,
    }
    source = args.dataset_path / INFERENCE_SETTINGS
    if args.by != "nmae" and not args.recogniser and source.is_file():
        # The scores are those that inference.py left.
        written_with = json.loads(source.read_text(encoding="utf-8"))
        settings |= {name: written_with.get(name) for name in ("recogniser", "normalise")}
    if prepare_output(args.save_dir, settings, args.overwrite, marker=FILTER_SETTINGS, flag="--save_dir"):
        print(f"finished    {args.save_dir} holds these words already; --overwrite makes it anew")
        return

    # The scores.
    scores = score_words(args, records)
    scored = [record for record in records if "reason" not in scores[record.file_name]]
    if not scored:
        raise UserError(
            f"--dataset_path {args.dataset_path}: no word could be scored "
            f"({dict(Counter(score['reason'] for score in scores.values()))})"
        )
    if args.top is not None:
        kept = choose_best(scored, scores, args.by, args.top, args.balance)
        reason = f"not_in_top_{args.top:g}_percent"
    else:
        sign = 1 if HIGHER_IS_BETTER[args.by] else -1
        kept = {r.file_name for r in scored if sign * scores[r.file_name][args.by] >= sign * args.threshold}
        reason = f"{args.by}_{'under' if sign > 0 else 'over'}_{args.threshold:g}"
    if not kept:
        values = sorted(scores[record.file_name][args.by] for record in scored)
        flag = f"--top {args.top:g}" if args.threshold is None else f"--threshold {args.threshold:g}"
        raise UserError(
            f"{flag}: keeps none of {len(scored)} words, whose {args.by} is {values[0]:g} to {values[-1]:g}"
        )

    # The words.
    for parent in {(args.save_dir / name).parent for name in kept}:
        parent.mkdir(parents=True, exist_ok=True)
    for record in tqdm([record for record in records if record.file_name in kept], unit="word", desc="copy"):
        shutil.copyfile(args.dataset_path / record.file_name, args.save_dir / record.file_name)
    dropped = [
        replace(
            r, extra={**r.extra, **scores[r.file_name], "reason": scores[r.file_name].get("reason", reason)}
        )
        for r in records
        if r.file_name not in kept
    ]
    write_metadata(args.save_dir, dropped, name=DROPPED_NAME)
    reasons = Counter(record.extra["reason"] for record in dropped)
    mean = float(np.mean([scores[name][args.by] for name in kept]))
    before = float(np.mean([scores[record.file_name][args.by] for record in scored]))
    summary = {
        **settings,
        "kept": len(kept),
        "dropped": dict(reasons),
        f"mean_{args.by}_before": round(before, 4),
        f"mean_{args.by}_after": round(mean, 4),
    }
    best = (record for record in records if record.file_name in kept)
    write_metadata(
        args.save_dir,
        [replace(record, extra={**record.extra, **scores[record.file_name]}) for record in best],
    )
    write_atomically(args.save_dir / SUMMARY_NAME, json.dumps(summary, indent=2, ensure_ascii=False))
    (args.save_dir / SCORES_NAME).unlink(missing_ok=True)
    print(
        f"kept        {len(kept)} of {len(records)} words in {args.save_dir}; mean {args.by} {before:.3f} ->"
        f" {mean:.3f}"
    )
    for name, count in reasons.most_common():
        print(f"  dropped   {count:6d} {name}")
    if settings["recogniser"]:
        print(
            f"note        {settings['recogniser']} chose them: judge them by another recogniser",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run(main, parse_args())
