"""The command line of process_dataset.py: its flags, what they may be, and the settings they stand for."""

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

from preprocessing.cleaning import FitSettings
from utils.cli import HelpFormatter, positive_int
from utils.errors import UserError

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
# The flags that belong to readers, as keyword arguments of their ``iter_words``.
READER_FLAGS = {
    "iam": ("unit", "splits", "segmentation", "writer_from", "drop_lines_with"),
    "gw": ("unit", "fold", "writer_from"),
    "imgur5k": ("images", "verify_md5"),
    "pages": ("unit", "writer_from", "writer_pattern", "writer_table", "drop_lines_with"),
    "table": ("table", "image_column", "text_column", "writer_column", "split_column", "writer"),
    "fonts": ("unit", "num_words", "words_file", "fonts", "seed"),
}
# The flags that change nothing where no text is known; such images are squeezed, as published.
TEXT_FLAGS = (
    "preset",
    "charset",
    "min_length",
    "max_length",
    "val_fraction",
    "test_fraction",
    "unseen_writers",
    "background",
    "crop",
    "fit",
    "align",
    "margin",
    "max_scale",
    "split_words",
)
# The flags that say how a picture of a single word is fitted. What is cut out of pages, and lines in fonts,
# have their hand's own size.
WORD_FLAGS = ("preset", "background", "crop", "fit", "align", "max_scale", "invert_dark", "split_words")
WORD_SIZE = (64, 256)  # height and width in pixels
LINE_SIZE = (64, 2048)
ASPECT_FLAGS = ("align", "margin", "max_scale")  # change nothing with --fit squeeze


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
        help="image size in pixels, multiples of 8; what is cut out of pages, and lines in fonts, are as wide"
        " as their ink, at most W (default: 64 256, for lines and pages 64 2048)",
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
        help="erase the rules of lined paper: all over a page (default for pages), or at the upper and lower"
        " edge of a word's picture (default: kept)",
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
    height, width = args.img_size or WORD_SIZE
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


def is_given(args: argparse.Namespace, flag: str) -> bool:
    """True if a flag has another value than its default."""
    return getattr(args, flag) != args.defaults[flag]


def unit_of(reader: str | None, args: argparse.Namespace) -> str:
    """What the reader is to yield: ``line`` or ``word``."""
    return args.unit or ("line" if reader == "pages" else "word")


def check_flags(reader: str | None, args: argparse.Namespace) -> None:
    """Raise a UserError if a flag is given that changes nothing: it belongs to another reader, or there are
    no texts, or another flag rules it out.
    """
    shown = reader or "images without a description"
    for flag in dict.fromkeys(flag for flags in READER_FLAGS.values() for flag in flags):
        readers = [name for name, flags in READER_FLAGS.items() if flag in flags]
        if reader not in readers and is_given(args, flag):
            raise UserError(
                f"--{flag} {getattr(args, flag)}: is for --dataset {' or '.join(readers)}; this is read as "
                f"{shown}. Leave it out, or name the reader with --dataset."
            )
    if reader != "pages" and args.writer_from == "folder":
        raise UserError(f"--writer_from folder: is for --dataset pages; this is read as {shown}")
    if reader is None:
        refused = [flag for flag in TEXT_FLAGS if is_given(args, flag)]
    elif reader == "pages" or (reader == "fonts" and args.unit == "line"):
        flags = WORD_FLAGS if reader == "pages" else (*WORD_FLAGS, "remove_rules")
        refused = [flag for flag in flags if is_given(args, flag)]
    elif args.unit == "line" and args.preset:
        refused = ["preset"]
    else:
        refused = [flag for flag in ASPECT_FLAGS if args.fit == "squeeze" and is_given(args, flag)]
    if refused:
        why = "is for images with texts" if reader is None else "changes nothing with --fit squeeze"
        if reader == "pages":
            why = "is for images of single words; what is cut out of pages has its writer's own size"
        elif args.unit == "line" and refused[0] not in ASPECT_FLAGS[1:]:
            why = "is for images of single words, not for --unit line"
        raise UserError(f"--{refused[0]} {getattr(args, refused[0])}: {why}. Leave it out.")


def reader_options(reader: str, args: argparse.Namespace) -> dict:
    """The flags that belong to one reader, as keyword arguments of its ``iter_words``."""
    options = {flag: getattr(args, flag) for flag in READER_FLAGS[reader]}
    return options | {"unit": unit_of(reader, args)} if "unit" in options else options


def fit_settings(reader: str | None, args: argparse.Namespace) -> FitSettings:
    """The image settings that the flags ask for; those of the published script where nothing is described."""
    inverts = args.invert_dark
    if inverts is None:
        inverts = reader == "imgur5k" and args.background == "whiten"
    if reader is None:
        fit = {"fit": "squeeze", "background": "keep", "crop": False, "align": "center"}
    else:
        fit = {"fit": args.fit, "background": args.background, "crop": args.crop, "align": args.align}
    return FitSettings(
        img_size=tuple(
            args.img_size
            or (LINE_SIZE if reader == "pages" or unit_of(reader, args) == "line" else WORD_SIZE)
        ),
        margin=args.margin,
        max_scale=args.max_scale,
        remove_rules=reader == "pages" if args.remove_rules is None else args.remove_rules,
        invert_dark=inverts,
        **fit,
    )
