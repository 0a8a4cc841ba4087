"""The command line of process_dataset.py: its flags, what they may be, and the settings they stand for."""

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

from preprocessing.reader_flags import READER_FLAGS, SQUEEZED_SIZE
from utils.cli import HelpFormatter, positive_int

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PRESETS = {
    "wordstylist": {
        "charset": LETTERS,
        "min_length": 2,
        "max_length": 7,
        "fit": "squeeze",
        "background": "keep",
        "crop": False,
        "align": "center",
        "segmentation": "all",
    },
}


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    """The command line's flags."""
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    _add_output_flags(parser.add_argument_group("input and output"))
    _add_selection_flags(parser.add_argument_group("which text images"))
    _add_image_flags(parser.add_argument_group("the image"))
    _add_reader_flags(parser)
    _add_page_flags(parser.add_argument_group("pages (PAGE and ALTO)"))
    _add_table_flags(parser.add_argument_group("table"))
    _add_font_flags(parser.add_argument_group("fonts"))
    return parser


def _add_output_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dataset_path",
        type=Path,
        help="folder of the raw data set (fonts: of font files; default there: the installed fonts)",
    )
    group.add_argument("--save_dir", type=Path, help="output folder; not needed with --dry_run")
    group.add_argument(
        "--dataset", choices=sorted(READER_FLAGS), help="reader (default: by what lies in the folder)"
    )
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="counts alone: nothing is written, no image is opened, so damaged ones count as whole",
    )
    group.add_argument("--overwrite", action="store_true", help="new start in a finished --save_dir")
    group.add_argument(
        "--num_workers", type=positive_int, default=os.cpu_count(), help="worker processes, one a core"
    )


def _add_selection_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        help="wordstylist: the published filter (2 to 7 letters A-Z a-z, IAM's err words kept) and fit",
    )
    group.add_argument(
        "--charset", help="characters that a text may hold; others leave it out (default: any)"
    )
    group.add_argument("--min_length", type=positive_int, default=1, help="shortest text in characters")
    group.add_argument("--max_length", type=positive_int, help="longest text in characters (default: any)")
    group.add_argument(
        "--val_fraction",
        type=float,
        default=0.05,
        help="share of each writer's images for validation; for data sets that name no splits",
    )
    group.add_argument(
        "--test_fraction", type=float, default=0.1, help="share of each writer's images for testing; likewise"
    )
    group.add_argument(
        "--unseen_writers",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the writers whose images are all for testing; for data sets that name no splits",
    )


def _add_image_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--img_size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and largest width in pixels, multiples of 8; an image is as wide as its ink, but with"
        " --fit squeeze W (default: 80 640, for lines and pages 80 2560, with --fit squeeze 64 256)",
    )
    group.add_argument(
        "--background", choices=("whiten", "keep"), default="whiten", help="paper: made white, or kept"
    )
    group.add_argument("--crop", action=argparse.BooleanOptionalAction, default=True, help="cut to the ink")
    group.add_argument(
        "--fit",
        choices=("aspect", "squeeze"),
        default="aspect",
        help="scaling: by one factor, or to the height with what is too wide squeezed",
    )
    group.add_argument(
        "--align", choices=("left", "center"), default="left", help="position of the ink in the width"
    )
    group.add_argument("--margin", type=int, default=4, help="white border in pixels on each side")
    group.add_argument(
        "--max_scale",
        type=float,
        default=2.0,
        help="largest enlargement, so that a full stop stays small; more for pictures of low resolution",
    )
    group.add_argument(
        "--remove_rules",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="erase the rules of lined paper: all over a page (default for pages), or above and below the"
        " word in its picture (default: kept)",
    )
    group.add_argument(
        "--invert_dark",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="turn light writing on a dark ground into dark on light (default: for imgur5k only)",
    )
    group.add_argument(
        "--split_words",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="cut texts of several words at their clear spaces into single words",
    )


def _add_reader_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("iam")
    group.add_argument(
        "--splits",
        type=Path,
        help="folder, zip or file of split lists: form, line or word ids (Aachen, large writer independent),"
        " or GANwriting's gan.iam.* (default: splits within each writer)",
    )
    group.add_argument(
        "--segmentation",
        choices=("ok", "all"),
        help="segmentations kept: those marked ok, or all (default: ok; for lines all, since a line whose"
        " words were cut badly is whole)",
    )
    group = parser.add_argument_group("iam, gw, pages and fonts")
    group.add_argument(
        "--unit",
        choices=("line", "word"),
        help="whole lines, or words (pages: where the files outline them one by one) (default: word, for"
        " pages line)",
    )
    group = parser.add_argument_group("iam, gw and pages")
    group.add_argument(
        "--writer_from",
        choices=("dataset", "folder", "page"),
        default="dataset",
        help="source of the writers: the data set itself (gw: one writer; pages: one a document, which is"
        " what page names share before their last number), or each folder of pages, or each page (iam: form)"
        " as one",
    )
    group = parser.add_argument_group("gw")
    group.add_argument(
        "--fold",
        choices=("cv1", "cv2", "cv3", "cv4"),
        default="cv1",
        help="cross-validation fold whose sets are the splits",
    )
    group = parser.add_argument_group("imgur5k")
    group.add_argument("--images", type=Path, help="folder of the downloaded pages (default: searched)")
    group.add_argument(
        "--verify_md5",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="leave out pages whose content is not the published one",
    )


def _add_page_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--writer_pattern",
        metavar="REGEX",
        help="regular expression sought in a page's path; its first group, or all that it matches, is the"
        " writer (default: --writer_from)",
    )
    group.add_argument(
        "--writer_table",
        type=Path,
        help="CSV or TSV file with the columns page and writer (default: --writer_from)",
    )
    group.add_argument(
        "--drop_lines_with",
        default="",
        metavar="CHARACTERS",
        help="also for iam: marks of the transcription that do not stand on the page as they are written,"
        " such as # for what nobody can read; what has one of them is left out (default: none)",
    )


def _add_table_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--table", type=Path, help="CSV, TSV or JSONL file (default: searched)")
    for name in ("image", "text", "writer", "split"):
        content = "image paths" if name == "image" else f"{name}s"
        group.add_argument(f"--{name}_column", help=f"column of the {content} (default: by usual names)")
    group.add_argument("--writer", default="me", help="writer of the rows that name none")


def _add_font_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--num_words", type=int, default=10_000, help="number of images, over all fonts")
    group.add_argument(
        "--words_file",
        type=Path,
        help="text file, one text a line; with --unit line running text, paragraphs parted by empty lines"
        " (default: English and German words, numbers, strings of letters; for lines sentences)",
    )
    group.add_argument(
        "--fonts", nargs="+", metavar="NAME", help="cuts (kalam-light) or families (kalam) (default: all)"
    )
    group.add_argument("--seed", type=int, default=0, help="random seed of the texts and of their drawing")


def parse_args(argv: Sequence[str] | None = None, description: str | None = None) -> argparse.Namespace:
    """Parse the command line; a preset only sets defaults, flags given beside it win."""
    parser = make_parser(description)
    preset, _ = parser.parse_known_args(argv)
    if preset.preset:
        parser.set_defaults(**PRESETS[preset.preset])
    args = parser.parse_args(argv)
    args.defaults = {name: parser.get_default(name) for name in vars(args)}
    if args.dataset_path is None and args.dataset != "fonts":
        parser.error("--dataset_path is needed (or --dataset fonts, which draws its own texts)")
    if not args.dry_run and args.save_dir is None:
        parser.error("--save_dir is needed (or --dry_run)")
    height, width = args.img_size or SQUEEZED_SIZE
    if height <= 0 or width <= 0 or height % 8 or width % 8:
        parser.error(f"--img_size {height} {width}: height and width are multiples of 8")
    if args.margin < 0 or 2 * args.margin >= min(height, width):
        parser.error(f"--margin {args.margin}: leaves no room in an image of {height}x{width} pixels")
    if not 0 < args.max_scale < math.inf:
        parser.error(f"--max_scale {args.max_scale}: must be a number above 0")
    if not 0 <= args.unseen_writers < 1:
        parser.error(f"--unseen_writers {args.unseen_writers}: a share of all writers, from 0 to below 1")
    val, test = args.val_fraction, args.test_fraction
    if not (val >= 0 and test >= 0 and val + test < 1):
        parser.error(f"--val_fraction {val} --test_fraction {test}: must be 0 or more, and below 1 together")
    return args
