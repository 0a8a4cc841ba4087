"""Measure generated images against real ones: how near they are, how legible, whose handwriting they show,
how varied they are, and whether they are copies.

  python3 evaluation/evaluate.py --real data/iam --generated data/iam_synthetic --save_dir report
  python3 evaluation/evaluate.py --real data/iam --generated data/iam_synthetic --save_dir report \\
      --recogniser rapidocr runs/htr --style_encoder runs/style --vae runs/vae \\
      --inception_weights weights-inception-2015-12-05-6726825d.pth

Writes metrics.json (each number with its interval, its count and how it was measured) and report.html (the
same to read, with figures and images; it opens offline). What can't be measured is left out, with a note that
names the flag which brings it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from evaluation.beside import add_implied, check_folders, count_shared, measure_beside
from evaluation.comparison import Comparison, compare_folders
from evaluation.evaluation import METRICS, Evaluation, Judges
from evaluation.features import make_reconstructor
from evaluation.figures import choose_examples
from evaluation.legibility import name_choosers
from evaluation.measures import LeftOut
from evaluation.report import Report, describe_measures, render_report
from feature_extractor import StyleEncoder
from htr.error_rates import NORMALISERS
from htr.recogniser import CHOICES, load_recogniser
from utils.bootstrap import Bootstrap
from utils.cli import HelpFormatter, positive_int, run
from utils.device import choose_device
from utils.errors import UserError
from utils.output import check_no_file, write_atomically
from utils.text_images import SPLITS

METRICS_NAME, REPORT_NAME = "metrics.json", "report.html"


def add_images(parser: argparse.ArgumentParser) -> None:
    """The flags of the images."""
    group = parser.add_argument_group("images")
    group.add_argument("--real", type=Path, required=True, help="folder of real text images")
    group.add_argument(
        "--generated",
        type=Path,
        required=True,
        help="folder of generated text images; an image is paired with the real one of the same file name and"
        " text",
    )
    group.add_argument(
        "--beside",
        type=Path,
        nargs="+",
        default=[],
        metavar="FOLDER",
        help="generated images of other systems, scored by HWD, FID, BFID and CER beside --generated, with as"
        " many images of each writer; also as AUTHOR/*.png with transcriptions.json, which --metrics hwd"
        " takes as --real and --generated, too",
    )
    group.add_argument(
        "--split",
        choices=(*SPLITS, "all"),
        help="split of the real images to compare with (default: test if there is one, else all)",
    )
    group.add_argument(
        "--train_split",
        choices=SPLITS,
        default="train",
        help="split of the real images that the model was trained on, among which copies are looked for",
    )
    group.add_argument(
        "--max_words", type=positive_int, help="most generated images to measure, drawn by --seed"
    )


def add_measures(parser: argparse.ArgumentParser) -> None:
    """The flags of the measures."""
    group = parser.add_argument_group("measures")
    group.add_argument(
        "--metrics",
        nargs="+",
        choices=tuple(METRICS),
        help="measures to make, an error if one can't be made (default: all that can be made); hwd brings"
        " squares, and with --recogniser legibility, where they can be made",
    )
    group.add_argument(
        "--recogniser",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help=f"recognisers for legibility, each measured: {CHOICES}",
    )
    group.add_argument(
        "--normalise",
        choices=tuple(NORMALISERS),
        default="exact",
        help="comparison of texts: exact; letters: letters and digits without case (rapidocr hardly tells"
        " case); folded: without accents too",
    )
    group.add_argument(
        "--style_encoder", type=Path, help="run of evaluation/train_style_encoder.py, for style and writers"
    )
    group.add_argument(
        "--inception_weights",
        type=Path,
        metavar="FILE",
        help="weights of FID's Inception, for FID and KID (default: torch's cache, else they are fetched)",
    )
    group.add_argument(
        "--hwd_weights", type=Path, metavar="FILE", help="weights of HWD's VGG16, for --metrics hwd"
    )
    group.add_argument(
        "--vae",
        help="VAE through which the real images are also measured, encoded and decoded: what a model with"
        " this VAE can reach at best",
    )
    group.add_argument(
        "--bootstrap", type=positive_int, default=1000, metavar="N", help="resamples for each interval"
    )
    group.add_argument("--seed", type=int, default=0, help="random seed of all drawing")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_images(parser)
    add_measures(parser)
    group = parser.add_argument_group("output")
    group.add_argument(
        "--save_dir", type=Path, required=True, help=f"folder for {METRICS_NAME} and {REPORT_NAME}"
    )
    group.add_argument(
        "--overwrite", action="store_true", help="replacement of these two files; others in the folder stay"
    )
    group.add_argument("--batch_size", type=positive_int, default=64, help="images computed at once")
    group.add_argument("--device", help="torch device, e.g. cpu or cuda:1 (default: a GPU if there is one)")
    args = parser.parse_args(argv)
    for metric, flag in (
        ("legibility", "recogniser"),
        ("style", "style_encoder"),
        ("hwd", "hwd_weights"),
    ):
        if args.metrics and metric in args.metrics and not getattr(args, flag):
            parser.error(f"--metrics {metric}: needs --{flag}")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: at least 0")
    return args


def check_output(folder: Path, overwrite: bool) -> None:
    """Raise UserError if the folder can't be written to, or holds something and is not to be overwritten."""
    check_no_file(folder, "--save_dir")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(
            f"--save_dir {folder}: not empty. Name another folder, or give --overwrite: it replaces "
            f"{METRICS_NAME} and {REPORT_NAME} alone."
        )


def load_judges(args: argparse.Namespace) -> Judges:
    """Networks and settings of the measures.

    Raises:
        FileNotFoundError, UserError: if one can't be loaded.
    """
    device = choose_device(args.device)
    wanted = add_implied(args.metrics, has_recogniser=bool(args.recogniser)) or tuple(METRICS)
    names = dict.fromkeys(args.recogniser if "legibility" in wanted else ())
    return Judges(
        encoder=StyleEncoder.from_pretrained(args.style_encoder).to(device) if args.style_encoder else None,
        reconstruct=make_reconstructor(args.vae, args.batch_size, device) if args.vae else None,
        recognisers={name: load_recogniser(name, flag="--recogniser", device=device) for name in names},
        normalise=args.normalise,
        inception_weights=args.inception_weights,
        hwd_weights=args.hwd_weights,
        train_split=args.train_split,
        batch_size=args.batch_size,
        device=device,
    )


def note_limits(pair: Comparison, recognisers: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Notes on what limits the comparison, and as facts, the recognisers that chose the generated images."""
    notes = []
    for images, flag in ((pair.real, "--real"), (pair.generated, "--generated")):
        if images.skipped:
            notes.append(
                f"{flag}: {len(images.skipped)} images can't be read; the first: {images.skipped[0]}"
            )
    if pair.unshared:
        count = np.isin(pair.generated.writers, pair.unshared).sum()
        notes.append(
            f"{count} generated images are of writers that --real does not have"
            f" ({', '.join(pair.unshared[:3])}): no distance counts them"
        )
    choosers = name_choosers(pair.generated.folder)
    for name, role in choosers.items():
        if any(is_same(name, other) for other in recognisers):
            notes.append(
                f"{name} {role} and scores them too: its rates are too good. Trust another recogniser's."
            )
    return notes, list(choosers.items())


def is_same(one: str, other: str) -> bool:
    """True if two names of recognisers are equal, or paths of one folder."""
    return one == other or (Path(one).exists() and Path(one).resolve() == Path(other).resolve())


def main(args: argparse.Namespace) -> None:
    """Read, measure, write."""
    check_output(args.save_dir, args.overwrite)
    judges = load_judges(args)  # before the images: a wrong name shows at once

    # The images.
    wanted = add_implied(args.metrics, has_recogniser=bool(args.recogniser))
    folders = [("--generated", args.generated), *(("--beside", folder) for folder in args.beside)]
    has_any_height = check_folders([("--real", args.real), *folders], wanted)
    limits = count_shared(folders) if args.beside else None
    drawing = {"split": args.split, "most": args.max_words, "seed": args.seed, "limits": limits}
    pair = compare_folders(args.real, args.generated, is_of_one_height=not has_any_height, **drawing)
    if judges.encoder and judges.encoder.config.img_size[0] != pair.real.height:
        raise UserError(
            f"--style_encoder {args.style_encoder}: trained on images {judges.encoder.config.img_size[0]}"
            f" pixels high; those of --real {args.real} have {pair.real.height}. Train one on this folder."
        )
    notes, choosers = note_limits(pair, list(judges.recognisers))
    intervals = f"95 %, {args.bootstrap} resamples of images, seed {args.seed}"
    facts = [*pair.describe(), ("intervals", intervals), *choosers]

    # The measures.
    bootstrap = Bootstrap(resamples=args.bootstrap, seed=args.seed)
    evaluation = Evaluation(pair, judges, bootstrap)
    results = evaluation.results
    results.notes += notes
    for name, measure in METRICS.items():
        if wanted and name not in wanted:
            continue
        try:
            measure(evaluation)
        except LeftOut as reason:
            if args.metrics and name in args.metrics:
                raise
            results.notes.append(str(reason))
    if args.beside:
        beside = measure_beside(args.real, args.beside, judges, bootstrap, **drawing)
        results.measures += beside.measures
        results.notes += beside.notes

    # The report.
    first = next(iter(evaluation.readings.items()), None)
    report = Report(
        title=f"{args.generated.resolve().name} against {args.real.resolve().name}",
        facts=facts,
        measures=results.measures,
        notes=results.notes,
        charts=results.charts,
        examples=choose_examples(pair, first, evaluation.differences, results.details.get("copies", [])),
    )
    page = render_report(report)
    settings = json.loads(json.dumps(vars(args), default=str))
    content = {
        "words": dict(facts),
        "settings": settings,
        "measures": {measure.key: measure.as_json() for measure in results.measures},
        "left_out": results.notes,
        "details": results.details,
    }
    write_atomically(args.save_dir / REPORT_NAME, page)
    write_atomically(
        args.save_dir / METRICS_NAME, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    )
    for name, value in facts:
        print(f"{name:<14}{value}")
    print(describe_measures(results.measures))
    for note in results.notes:
        print(f"note        {note}")
    print(f"wrote       {args.save_dir / METRICS_NAME} and {args.save_dir / REPORT_NAME}")


if __name__ == "__main__":
    run(main, parse_args())
