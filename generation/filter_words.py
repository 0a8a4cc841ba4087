"""Keep the best part of a generated folder of text images, by how well its words are read or how near they
are to real ones.

  python3 generation/filter_words.py --dataset_path data/synthetic --save_dir data/top90 \\
      --by confidence --recogniser runs/htr --top 90
  python3 generation/filter_words.py --dataset_path data/synthetic --save_dir data/top50 \\
      --by nmae --reference data/iam --top 50
  python3 generation/filter_words.py --dataset_path data/synthetic --save_dir data/legible \\
      --by cer --recogniser rapidocr --threshold 0

The source is only read. What was dropped and why stands in dropped.jsonl and filter_summary.json; an
interrupted run goes on when it is started again. The recogniser that filters must not be the one that judges
the result.
"""

import argparse
import json
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import numpy as np
from tqdm import tqdm

from generation.output_folder import Part, check_apart, lock_part, prepare_output, remove_leftovers
from generation.word_scores import (
    HIGHER_IS_BETTER,
    Score,
    choose_best,
    make_comparison,
    make_reader,
    read_scores,
    score_words,
)
from htr.error_rates import NORMALISERS
from htr.recogniser import CHOICES
from utils.cli import HelpFormatter, run
from utils.errors import UserError
from utils.json_files import read_json
from utils.output import write_atomically
from utils.text_images import (
    FILTER_SETTINGS,
    INFERENCE_SETTINGS,
    METADATA_NAME,
    SPLITS,
    TextImage,
    read_text_images,
    write_metadata,
)

SUMMARY_NAME = "filter_summary.json"
SCORES_NAME = "scores.jsonl"
DROPPED_NAME = "dropped.jsonl"


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder of text images to filter")
    parser.add_argument("--save_dir", type=Path, required=True, help="folder of text images to write")
    parser.add_argument("--overwrite", action="store_true", help="make --save_dir anew")
    _add_score(parser.add_argument_group("score"))
    _add_choice(parser.add_argument_group("keep"))
    args = parser.parse_args(argv)
    if mistake := _find_mistake(args):
        parser.error(mistake)
    args.normalise = args.normalise or "exact"
    return args


def _add_score(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--by",
        choices=tuple(HIGHER_IS_BETTER),
        required=True,
        help=(
            "score: confidence, the recogniser's, the product of its characters' probabilities; cer,"
            " character errors a character; nmae, mean absolute pixel difference (0 to 1) from the record of"
            " the same name in --reference"
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
        help=(
            "how texts are compared for cer: exactly; by their letters and digits without case; or, folded,"
            " without accents too (default: exact)"
        ),
    )
    group.add_argument("--reference", type=Path, help="folder of the real text images for --by nmae")


def _add_choice(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--top", type=float, metavar="PERCENT", help="share of the words to keep, the best ones"
    )
    group.add_argument(
        "--threshold", type=float, help="least confidence, or highest cer or nmae, of a word that is kept"
    )
    group.add_argument(
        "--balance",
        nargs="+",
        choices=("writer", "length"),
        default=[],
        help="groups of which --top keeps the same percentage each: writers, lengths of the text, or both",
    )
    group.add_argument(
        "--split", choices=SPLITS, help="split to filter; the others are left out (default: all)"
    )


def _find_mistake(args: argparse.Namespace) -> str | None:
    if (args.top is None) == (args.threshold is None):
        return "give --top or --threshold, one of them"
    if args.top is not None and not 0 < args.top <= 100:
        return f"--top {args.top:g}: a percentage above 0, at most 100"
    if args.threshold is not None and not abs(args.threshold) < float("inf"):
        return f"--threshold {args.threshold:g}: not a number"
    if args.threshold is not None and args.balance:
        return f"--balance {' '.join(args.balance)}: goes with --top"
    if args.by == "nmae" and (args.reference is None or args.recogniser):
        return "--by nmae: goes with --reference, and without --recogniser"
    if args.by != "nmae" and args.reference:
        return f"--reference {args.reference}: goes with --by nmae"
    if args.normalise and not args.recogniser:
        return f"--normalise {args.normalise}: goes with --recogniser"
    return None


def choose_words(
    records: Sequence[TextImage],
    scores: dict[str, Score],
    by: str,
    *,
    top: float | None,
    threshold: float | None,
    balance: Sequence[str],
) -> tuple[set[str], str]:
    """File names of the words that are kept, and the reason why the others are not.

    Raises:
        UserError: if none is.
    """
    if top is not None:
        flag, reason = f"--top {top:g}", f"not_in_top_{top:g}_percent"
        kept = choose_best(records, scores, by, top, balance)
    else:
        sign = 1 if HIGHER_IS_BETTER[by] else -1
        flag, reason = f"--threshold {threshold:g}", f"{by}_{'under' if sign > 0 else 'over'}_{threshold:g}"
        kept = {r.file_name for r in records if sign * scores[r.file_name][by] >= sign * threshold}
    if not kept:
        values = sorted(scores[record.file_name][by] for record in records)
        raise UserError(
            f"{flag}: keeps none of {len(records)} words, whose {by} is {values[0]:g} to {values[-1]:g}"
        )
    return kept, reason


def write_words(
    source: Path,
    folder: Path,
    records: Sequence[TextImage],
    scores: dict[str, Score],
    kept: set[str],
    reason: str,
) -> Counter:
    """Copy the words that are kept, and list the others with their reasons; returns the reasons' numbers. The
    metadata, which says that all is there, comes last.
    """
    for parent in {(folder / name).parent for name in kept}:
        parent.mkdir(parents=True, exist_ok=True)
    best, dropped = [], []
    for record in records:
        extra = {**record.extra, **scores[record.file_name]}
        if record.file_name in kept:
            best.append(replace(record, extra=extra))
        else:
            dropped.append(replace(record, extra={**extra, "reason": extra.get("reason", reason)}))
    for record in tqdm(best, unit="word", desc="copy"):
        shutil.copyfile(source / record.file_name, folder / record.file_name)
    write_metadata(folder, dropped, name=DROPPED_NAME)
    write_metadata(folder, best)
    return Counter(record.extra["reason"] for record in dropped)


def main(args: argparse.Namespace) -> None:
    """Score, choose, copy."""
    check_apart(args.save_dir, "--save_dir", args.dataset_path, "--dataset_path")
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
    written_with = args.dataset_path / INFERENCE_SETTINGS
    has_scores = args.by != "nmae" and not args.recogniser
    if has_scores and written_with.is_file():
        of_inference = read_json(written_with, "--dataset_path")
        settings |= {name: of_inference.get(name) for name in ("recogniser", "normalise")}

    with lock_part(args.save_dir, Part(), "--save_dir", overwrite=args.overwrite):
        prepare_output(args.save_dir, settings, args.overwrite, marker=FILTER_SETTINGS, flag="--save_dir")
        if (args.save_dir / METADATA_NAME).is_file():
            print(f"finished    {args.save_dir} holds these words already; --overwrite makes it anew")
            return
        remove_leftovers(args.save_dir)

        # The scores.
        scores_path = args.save_dir / SCORES_NAME
        if has_scores:
            scores = read_scores(records, args.by, args.dataset_path)
        elif args.by == "nmae":
            comparison = make_comparison(args.dataset_path, args.reference, records)
            scores = score_words(records, comparison, scores_path)
        else:
            reader = make_reader(args.dataset_path, args.recogniser, args.normalise)
            scores = score_words(records, reader, scores_path)
        scored = [record for record in records if "reason" not in scores[record.file_name]]
        if not scored:
            reasons = dict(Counter(score["reason"] for score in scores.values()))
            raise UserError(f"--dataset_path {args.dataset_path}: no word could be scored ({reasons})")

        # The words.
        kept, reason = choose_words(
            scored, scores, args.by, top=args.top, threshold=args.threshold, balance=args.balance
        )
        reasons = write_words(args.dataset_path, args.save_dir, records, scores, kept, reason)
        before, after = (
            float(np.mean([scores[name][args.by] for name in names]))
            for names in ((record.file_name for record in scored), kept)
        )
        summary = {
            **settings,
            "kept": len(kept),
            "dropped": dict(reasons),
            f"mean_{args.by}_before": round(before, 4),
            f"mean_{args.by}_after": round(after, 4),
        }
        write_atomically(args.save_dir / SUMMARY_NAME, json.dumps(summary, indent=2, ensure_ascii=False))
        scores_path.unlink(missing_ok=True)
    print(
        f"kept        {len(kept)} of {len(records)} words in {args.save_dir}; mean {args.by} {before:.3f} ->"
        f" {after:.3f}"
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
