"""From a collection's transcribed pages to a recogniser of its own: PAGE or ALTO in, texts out.

  python3 scripts/adapt.py my_pages adapted
  python3 scripts/adapt.py my_pages adapted --corpus letters.txt --synthetic 600 --transcribe more_pages

Steps: lines are cut out of the pages; a part of the pages is held out; the recogniser is fine-tuned on the
real lines; it reads the lines without text, and the surest readings become texts to learn from; the generator
takes on the hand and writes lines, which this recogniser checks; a recogniser learns all of them mixed first
and the real ones alone last. The better one on the held-out pages is kept, pages without text are transcribed
(PAGE with confidence), and all lines are written for kraken and PyLaia.
The same command started again goes on where it was. Results: report.md, recogniser/, pages/, and the lines.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from PIL import Image

from evaluation.collection_flags import ROOT
from evaluation.collection_generation import read_generator, write_generated
from evaluation.collection_lines import HAND, read_collection
from evaluation.collection_steps import (
    BOTH,
    GENERATED,
    READINGS_NAME,
    REAL,
    CollectionSettings,
    choose_course,
    copy_lines,
    label_lines,
    save_readings,
)
from evaluation.collection_study import SETTINGS_NAME, check_collection_settings, run_arm
from evaluation.fractions import copy_images
from htr.crnn import CRNN
from htr.error_rates import ErrorRates, measure_errors
from htr.recogniser import SHIPPED
from scripts.transcribe_pages import draw_empty_lines, find_pages
from utils.cli import HelpFormatter, call_script, flags, positive_int, run
from utils.device import choose_device, name_gpu
from utils.errors import UserError
from utils.json_files import read_json
from utils.output import claim_folder, lock_folder, write_atomically
from utils.text_images import IMAGE_FOLDER, METADATA_NAME, TextImage, read_text_images, write_metadata

STEPS = 8
MOST_READ = 2000  # lines without text that are learnt from
TEST_SHARE = 0.2  # of the lines, by whole pages
FORMATS = ("kraken", "pylaia")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("collection", type=Path, help="folder of PAGE or ALTO files with their pictures")
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument(
        "--transcribe",
        type=Path,
        metavar="FOLDER",
        help="pages to transcribe (default: those of the collection that have lines without text)",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        help="text file in the collection's language to write from (default: the lines' own words, anew)",
    )
    parser.add_argument("--synthetic", type=positive_int, default=400, help="generated lines")
    parser.add_argument(
        "--one_hand",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="all pages are of one hand; otherwise each document has its own",
    )
    parser.add_argument(
        "--recogniser",
        type=Path,
        metavar="FOLDER",
        help="recogniser to start from (default: the one that ships, models/recogniser)",
    )
    parser.add_argument(
        "--generator", type=Path, metavar="FOLDER", help="generator to adapt (default: models/demo)"
    )
    parser.add_argument("--htr_steps", type=positive_int, default=400, help="most steps of a recogniser")
    parser.add_argument(
        "--num_steps", type=positive_int, help="sampling steps (default: that of inference.py)"
    )
    return parser.parse_args(argv)


def make_settings(args: argparse.Namespace) -> CollectionSettings:
    """The adaptation as a study of one number of lines: all that there are."""
    return CollectionSettings(
        collection=args.out / "lines",
        save_path=args.out / "work",
        items=(),
        generator=args.generator or ROOT / "models" / "demo",
        init_from=args.recogniser or Path(SHIPPED),
        one_hand=args.one_hand,
        corpus=args.corpus,
        synthetic=args.synthetic,
        htr_steps=args.htr_steps,
        num_steps=args.num_steps,
    )


@contextmanager
def step(number: int, what: str) -> Iterator[None]:
    """Say what begins, and at its end how long it took."""
    print(f"{number}/{STEPS}         {what}", flush=True)
    start = time.monotonic()
    yield
    print(f"            done in {(time.monotonic() - start) / 60:.1f} min", flush=True)


@dataclass(frozen=True, kw_only=True)
class Pages:
    """Where pages come from and results go; ``transcribe`` are other pages than the collection's."""

    collection: Path
    out: Path
    transcribe: Path | None


def cut_pages(pages: Pages, settings: CollectionSettings) -> None:
    """Lines of all pages with texts, a fifth of them on held-out pages."""
    if (settings.collection / METADATA_NAME).is_file():
        return
    arguments = ["--dataset", "pages", "--dataset_path", pages.collection, "--save_dir", settings.collection]
    arguments += ["--test_fraction", TEST_SHARE, "--val_fraction", 0]
    call_script("preprocessing/process_dataset.py", arguments, pages.out / "lines.log", None, report_every=30)


def iter_empty_lines(folder: Path) -> Iterator[np.ndarray]:
    """Images of the lines without text of all pages of a folder."""
    for found in find_pages(folder):
        yield from draw_empty_lines(found).values()


def label_empty_lines(
    pages: Pages, settings: CollectionSettings, work: Path, device: torch.device
) -> list[Path]:
    """A folder of lines that nobody has transcribed, with what the recogniser of the real lines reads in
    them; no folder where there are none.
    """
    drawn = work / "empty_lines"
    if not (drawn / METADATA_NAME).is_file():
        (drawn / IMAGE_FOLDER).mkdir(parents=True, exist_ok=True)
        records = []
        images = iter_empty_lines(pages.transcribe or pages.collection)
        for number, image in enumerate(islice(images, MOST_READ)):
            name = f"{IMAGE_FOLDER}/{number:05d}.png"
            Image.fromarray(image).save(drawn / name)
            records.append(TextImage(file_name=name, text="?", writer=HAND))
        write_metadata(drawn, records)
    others = read_text_images(drawn) if (drawn / METADATA_NAME).stat().st_size else []
    settings = replace(settings, collection=drawn)
    folder = label_lines(settings, others, work, work / f"{REAL.slug}-0", device)
    count = len(read_text_images(folder)) if folder.is_dir() else 0
    print(f"            {count} of {len(others)} lines kept", flush=True)
    return [folder] if count else []


def merge_lines(settings: CollectionSettings, generated: Path, folder: Path) -> Path:
    """One folder of the real and the generated lines, for other trainers."""
    if (folder / METADATA_NAME).is_file():
        return folder
    records = []
    for source, kind in ((settings.collection, "real"), (generated, "generated")):
        of_source = read_text_images(source)
        copy_images(source, of_source, folder / kind)
        records += [
            replace(
                record,
                file_name=f"{kind}/{record.file_name}",
                split=record.split if kind == "real" else "train",
            )
            for record in of_source
        ]
    write_metadata(folder, records)
    return folder


def export_recogniser(run_folder: Path, folder: Path) -> None:
    """The adapted recogniser in 16 bits."""
    if not (folder / "config.json").is_file():
        CRNN.from_pretrained(run_folder).save_pretrained(folder, {}, dtype=torch.float16)


def held_out_errors(folder: Path) -> ErrorRates:
    """What a recogniser misreads on the held-out pages."""
    values = read_json(folder / READINGS_NAME)
    return measure_errors(values["texts"], values["readings"])


def describe_readings(names: dict[str, Path]) -> list[str]:
    """Error rates on the held-out pages, a row of a table for each recogniser."""
    return [f"| {name} | {held_out_errors(folder).describe()} |" for name, folder in names.items()]


def finish(pages: Pages, settings: CollectionSettings, generated: Path) -> None:
    """Transcribe the pages without text, and write the lines for other trainers."""
    target = pages.out / "pages"
    source = pages.transcribe or pages.collection
    with step(7, f"pages without text are transcribed: {target}"):
        arguments = ["--dataset_path", source, "--save_dir", target, "--recogniser", pages.out / "recogniser"]
        call_script("scripts/transcribe_pages.py", arguments, pages.out / "pages.log", None, report_every=30)
    with step(8, f"lines for other trainers: {', '.join(FORMATS)}"):
        merged = merge_lines(settings, generated, settings.save_path / "all_lines")
        for name in FORMATS:
            if not (pages.out / name / "export.json").is_file():
                arguments = ["--dataset_path", merged, "--save_dir", pages.out / name, *flags(format=name)]
                call_script("generation/export.py", arguments, pages.out / f"{name}.log", None)


def adapt_recogniser(pages: Pages, settings: CollectionSettings, device: torch.device) -> list[str]:
    """All steps that are not done yet; returns the table of error rates."""
    work, recogniser = settings.save_path, pages.out / "recogniser"
    with step(1, f"lines are cut out of the pages: {settings.collection}"):
        cut_pages(pages, settings)
    records = read_collection(settings.collection, one_hand=settings.one_hand)
    lines = [record for record in records if record.split == "train"]
    print(f"            {len(lines)} lines to learn, {len(records) - len(lines)} on held-out pages")
    with step(2, "the recogniser as it is reads the held-out pages"):
        if not (work / "before" / READINGS_NAME).is_file():
            save_readings(work / "before", settings.init_from, settings.collection, device)
    with step(3, "a recogniser is fine-tuned on the real lines"):
        copy_lines(settings, lines, work / "lines")
        course = choose_course(settings, lines, work, device)
        run_arm(settings, work, REAL, 0, course, work / "lines", [], device)
    with step(4, "lines without text are read, and the surest readings kept"):
        read = label_empty_lines(pages, settings, work, device)
    with step(5, f"the generator takes on the hand, and writes {settings.synthetic} lines"):
        generated = write_generated(settings, lines, work, work / f"{REAL.slug}-0", name_gpu(device))
    arm = BOTH if read else GENERATED
    with step(6, f"a recogniser learns all lines mixed, then the real ones alone: {recogniser}"):
        run_arm(settings, work, arm, 0, course, work / "lines", [generated, *read], device)
        best = min(
            (work / f"{arm.slug}-0", work / f"{REAL.slug}-0"), key=lambda run: held_out_errors(run).cer
        )
        print(f"            the one of {best} reads the held-out pages best", flush=True)
        export_recogniser(best, recogniser)
    finish(pages, settings, generated)
    return describe_readings(
        {
            "before": work / "before",
            "real lines alone": work / f"{REAL.slug}-0",
            f"{'generated and read' if read else 'generated'} lines, then real ones": work / f"{arm.slug}-0",
        }
    )


def main(args: argparse.Namespace) -> None:
    """Check, adapt, report."""
    # So that the scripts that this one calls are ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings, start = make_settings(args), time.monotonic()
    pages = Pages(collection=args.collection, out=args.out, transcribe=args.transcribe)
    read_generator(settings)
    CRNN.from_pretrained(settings.init_from, flag="--recogniser")
    if args.out.resolve().is_relative_to(args.collection.resolve()):
        raise UserError(f"{args.out}: lies in the collection. Name a folder beside it.")
    work = settings.save_path.name
    claim_folder(args.out, "OUT", marker=f"{work}/{SETTINGS_NAME}", ignore=(work,))
    with lock_folder(settings.save_path, "OUT"):
        check_collection_settings(settings)
        rows = adapt_recogniser(pages, settings, choose_device())
    report = ["| recogniser | held-out pages |", "| --- | --- |", *rows]
    write_atomically(args.out / "report.md", "\n".join(report) + "\n")
    print("\n".join(report))
    count = len(list((args.out / "pages").glob("*.xml")))
    print(f"saved       {args.out}, {count} transcribed pages; {(time.monotonic() - start) / 60:.0f} min")


if __name__ == "__main__":
    run(main, parse_args())
