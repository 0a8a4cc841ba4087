"""The flags of the study of one collection."""

import argparse
import math
from dataclasses import fields
from pathlib import Path

from evaluation.collection_steps import ADAPTATIONS, CollectionSettings
from htr.recogniser import SHIPPED
from utils.cli import positive_int

ROOT = Path(__file__).resolve().parents[1]
COLLECTION_FLAGS = (
    "items",
    "one_hand",
    "adapt",
    "corpus",
    "keep",
    "variation",
    "first_share",
    "first_real",
    "sure",
    "rates",
)


def add_collection(parser: argparse.ArgumentParser) -> None:
    """The flags that belong to ``--collection`` alone."""
    group = parser.add_argument_group(
        "collection",
        "with --collection; --generator, --generator_steps, --synthetic (a number of lines), --htr_steps,"
        " --htr_batch_size, --init_from, --seeds and the flags of generated images count here too",
    )
    group.add_argument(
        "--collection",
        type=Path,
        metavar="FOLDER",
        help="folder of real lines of one collection: what do generated lines bring to it?",
    )
    group.add_argument(
        "--items", type=positive_int, nargs="+", metavar="N", help="labelled lines (default: 10 30 100 300)"
    )
    group.add_argument(
        "--one_hand",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="all lines are of one hand, whatever their writers are called (default: yes)",
    )
    group.add_argument(
        "--adapt",
        choices=ADAPTATIONS,
        help="adaptation of the generator: a hand fitted, or all weights fine-tuned (default: fit_hand)",
    )
    group.add_argument(
        "--corpus",
        type=Path,
        help="text file in the collection's language to write from (default: the lines' own words, anew)",
    )
    group.add_argument(
        "--keep",
        type=float,
        metavar="SHARE",
        help="share of the generated lines that is kept, those read best (default: 0.8)",
    )
    group.add_argument("--variation", type=float, metavar="V", help="spread of the hand, see inference.py")
    group.add_argument(
        "--first_share",
        type=float,
        metavar="SHARE",
        help="share of the steps with generated (or font) lines, before those with real lines alone (default:"
        " 0.9)",
    )
    group.add_argument(
        "--first_real",
        type=float,
        metavar="SHARE",
        help="share of real lines in these steps (default: 0.5)",
    )
    group.add_argument(
        "--sure",
        type=float,
        metavar="SHARE",
        help="share of the lines without text that is learnt from as it was read, the surest (default: 0.6)",
    )
    group.add_argument(
        "--rates",
        type=float,
        nargs="+",
        help="learning rates to choose from; few held-out lines can't tell them apart (default: 0.0003)",
    )


def make_collection_settings(parser: argparse.ArgumentParser, args: argparse.Namespace) -> CollectionSettings:
    """The settings that the flags ask for; ends with a message where they don't fit together."""

    def choose(name: str) -> object:
        """What was given, or what is usual here where the flag has the default of the other study."""
        value = getattr(args, name)
        return usual[name] if value is None or value == parser.get_default(name) else value

    usual = {field.name: field.default for field in fields(CollectionSettings)}
    keep, first_share, sure = choose("keep"), choose("first_share"), choose("sure")
    for name, value in (("keep", keep), ("first_share", first_share), ("sure", sure)):
        if not 0 < value <= 1 or (name == "first_share" and value == 1):
            parser.error(f"--{name} {value}: a share between 0 and 1")
    first_real = choose("first_real")
    if not 0 <= first_real < 1:
        parser.error(f"--first_real {first_real}: a share of at least 0 and below 1")
    rates = tuple(choose("rates"))
    if any(not 0 < rate < math.inf for rate in rates):
        parser.error("--rates: must be above 0")
    items = tuple(sorted(set(choose("items"))))
    if items[0] < 2:
        parser.error("--items 1: two lines are the least, since some of them choose the steps")
    return CollectionSettings(
        collection=args.collection,
        save_path=args.save_path,
        items=items,
        seeds=args.seeds,
        generator=args.generator or ROOT / "models" / "demo",
        init_from=args.init_from or Path(SHIPPED),
        one_hand=choose("one_hand"),
        adapt=choose("adapt"),
        generator_steps=choose("generator_steps"),
        corpus=args.corpus,
        synthetic=round(choose("synthetic")),
        keep=keep,
        variation=args.variation,
        first_share=first_share,
        first_real=first_real,
        sure=sure,
        htr_steps=choose("htr_steps"),
        htr_batch_size=choose("htr_batch_size"),
        rates=rates,
        num_steps=args.num_steps,
        inference_batch_size=args.inference_batch_size,
        mixed_precision=args.mixed_precision,
    )
