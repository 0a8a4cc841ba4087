"""Which flags belong to which reader, and what they stand for."""

import argparse

from preprocessing.cleaning import FitSettings
from utils.errors import UserError

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
WORD_SIZE = (80, 640)  # height and width in pixels; the height is that of the model that ships
LINE_SIZE = (80, 2560)
SQUEEZED_SIZE = (64, 256)  # the published one
ASPECT_FLAGS = ("align", "margin", "max_scale")  # change nothing with --fit squeeze


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
    usual = SQUEEZED_SIZE if fit["fit"] == "squeeze" else WORD_SIZE
    if reader == "pages" or unit_of(reader, args) == "line":
        usual = LINE_SIZE
    return FitSettings(
        img_size=tuple(args.img_size or usual),
        margin=args.margin,
        max_scale=args.max_scale,
        remove_rules=reader == "pages" if args.remove_rules is None else args.remove_rules,
        invert_dark=inverts,
        **fit,
    )
