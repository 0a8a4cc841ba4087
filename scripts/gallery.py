"""Show every hand of a model on one page: an HTML file with its images inside, with search and sorting.

  python3 scripts/gallery.py --models_path runs/iam --save_path gallery.html
  python3 scripts/gallery.py --models_path runs/iam --save_path two.html --writers 000 011 --words Hello

Each hand writes the same two words, and the same line if the model writes lines. The page needs no network. A
click on a hand's name copies the command that writes in it.
"""

import argparse
import base64
import io
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the project, from whichever folder this is run

import numpy as np
from PIL import Image
from tqdm import tqdm

from diffusion.pipeline import HandwritingPipeline
from evaluation.report import render_template
from evaluation.strokes import NAMES, measure_image
from generation.flags import SHIPPED_MODEL
from generation.jobs import jobs_of_texts
from generation.planning import default_texts
from generation.sampling import SamplingSettings, write_batches
from generation.word_lines import LinesFromWords, choose_line_source
from utils.charset import normalise_text, normalise_texts
from utils.cli import HelpFormatter, positive_int, run
from utils.device import choose_device
from utils.errors import UserError
from utils.output import write_atomically

WORDS = ("Monday", "flight")  # with tall and deep letters; where the model can spell them
LINE = "The quick brown fox jumps over a lazy dog"
USUAL_LENGTH = 6  # characters of the words that are taken of others
GREYS = 16  # levels of a picture: more can't be told apart, and would double the file
SHOWN = 0.5  # of their pixels is the size of pictures on the page, so that they are sharp on every screen
SORTED_BY = {
    "slant": "slant",
    "stroke_width": "stroke width",
    "character_width": "width of letters",
    "darkness": "darkness",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """A hand on the page.

    Attributes:
        command: what writes in this hand.
        words, line: pictures (data URL, width, height) and texts.
        statistics: means over its images by name; empty where it has no ink.
    """

    name: str
    command: str
    words: Sequence[tuple[str, str, int, int]]
    line: tuple[str, str, int, int] | None
    statistics: Mapping[str, float]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--models_path",
        type=Path,
        default=SHIPPED_MODEL,
        help="checkpoint, or run (its newest checkpoint) (default: the model that ships, models/demo)",
    )
    parser.add_argument("--save_path", type=Path, required=True, help="HTML file to write")
    parser.add_argument("--overwrite", action="store_true", help="write a file anew that is there already")
    parser.add_argument("--words", nargs="+", help=f"words of every hand (default: {' '.join(WORDS)})")
    parser.add_argument(
        "--line",
        help=f"line of every hand (default: {LINE!r} of a model that was trained on lines, else none)",
    )
    parser.add_argument("--writers", nargs="+", metavar="ID", help="hands to show, by name (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="random seed: another one gives other drawings")
    parser.add_argument("--batch_size", type=positive_int, default=32, help="words drawn at once")
    parser.add_argument("--device", help="e.g. cpu or cuda:1 (default: a GPU if there is one)")
    return parser.parse_args(argv)


# Texts and images
# ------------------------------------------------------------------------------------------------------------


def choose_words(given: Sequence[str] | None, pipeline: HandwritingPipeline) -> list[str]:
    """The words that every hand writes.

    Raises:
        UserError: if the model can't write one that is given.
    """
    if given:
        words = normalise_texts(given)
        _check(words, pipeline, f"--words {' '.join(given)}")
        return words
    known, longest = set(pipeline.config.charset.characters), pipeline.unet.config.max_length
    if all(set(word) <= known and len(word) <= longest for word in WORDS):
        return list(WORDS)
    texts = default_texts(pipeline.config, longest)
    words = [text for text in texts if " " not in text] or texts
    return sorted(words, key=lambda word: abs(len(word) - USUAL_LENGTH))[:2]


def choose_line(given: str | None, pipeline: HandwritingPipeline) -> str | None:
    """The line that every hand writes, if any; see ``choose_words``."""
    if given is not None:
        text = normalise_text(given)
        is_whole = choose_line_source(None, pipeline.config) == "model"
        _check([text] if is_whole else text.split(), pipeline, f"--line {given!r}")
        return text
    if not pipeline.config.writes_lines:
        return None
    known, longest = set(pipeline.config.charset.characters), pipeline.unet.config.max_length
    lines = (LINE, *sorted(pipeline.config.sample_texts, key=len, reverse=True))
    return next((line for line in lines if set(line) <= known and len(line) <= longest), None)


def _check(texts: Sequence[str], pipeline: HandwritingPipeline, flag: str) -> None:
    if not any(texts):
        raise UserError(f"{flag}: nothing but white space")
    try:
        pipeline.check(texts, [])
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error


def draw(
    drawer: HandwritingPipeline | LinesFromWords,
    texts: Sequence[str],
    writers: Sequence[str],
    settings: SamplingSettings,
) -> dict[tuple[str, str], np.ndarray]:
    """Each text in each hand, (H, W) uint8, by (writer, text)."""
    jobs = jobs_of_texts(texts, writers, drawer.config.writers, seed=settings.seed)
    images = {}
    with tqdm(total=len(jobs), unit="image", desc="draw") as progress:
        for batch, drawn, _ in write_batches(drawer, jobs, settings):
            for job, image in zip(batch, drawn, strict=True):
                images[job.record.writer, job.record.text] = image
            progress.update(len(batch))
    return images


# The page
# ------------------------------------------------------------------------------------------------------------


def make_picture(image: np.ndarray) -> tuple[str, int, int]:
    """An (H, W) uint8 image, ink on white, as a data URL of black ink on nothing, with the width and height
    that it has on the page: so it stands on a dark page too.
    """
    levels = np.round((255 - image.astype(np.float64)) * (GREYS - 1) / 255).astype(np.uint8)
    picture = Image.fromarray(levels, mode="P")
    picture.putpalette([0, 0, 0] * GREYS)
    buffer = io.BytesIO()
    opacities = bytes(round(level * 255 / (GREYS - 1)) for level in range(GREYS))
    picture.save(buffer, format="PNG", bits=4, transparency=opacities, optimize=True)
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return url, round(image.shape[1] * SHOWN), round(image.shape[0] * SHOWN)


def measure(images: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean statistics of the strokes of a hand's images, by their texts; empty without ink."""
    found = [strokes for text, image in images.items() if (strokes := measure_image(image, text))]
    if not found:
        return {}
    return dict(zip(NAMES, np.mean([astuple(strokes) for strokes in found], axis=0).tolist(), strict=True))


def make_command(models_path: Path, writer: str, words: Sequence[str]) -> str:
    """The command that writes these words in a hand."""
    model = [] if models_path.resolve() == SHIPPED_MODEL.resolve() else ["--models_path", str(models_path)]
    return shlex.join(["python3", "inference.py", *model, "--writer", writer, "--words", *words])


def main(args: argparse.Namespace) -> None:
    """Draw, measure, write the page."""
    if args.save_path.is_dir():
        raise UserError(
            f"--save_path {args.save_path}: is a folder. Name a file, such as gallery.html in it."
        )
    if args.save_path.exists() and not args.overwrite:
        raise UserError(f"--save_path {args.save_path}: is there already. Name another, or give --overwrite.")

    # What is drawn.
    pipeline = HandwritingPipeline.from_pretrained(args.models_path)
    words, line = choose_words(args.words, pipeline), choose_line(args.line, pipeline)
    writers = list(dict.fromkeys(args.writers or pipeline.config.writers))
    try:
        pipeline.check([], writers)
    except UserError as error:
        raise UserError(f"--writers: {error}") from error
    pipeline.to(choose_device(args.device))

    # The images.
    settings = SamplingSettings(seed=args.seed, batch_size=args.batch_size)
    drawn = draw(pipeline, words, writers, settings)
    lines = {}
    if line is not None:
        is_whole = choose_line_source(None, pipeline.config) == "model"
        drawer = pipeline if is_whole else LinesFromWords(pipeline, words_at_once=args.batch_size)
        lines = draw(drawer, [line], writers, settings)

    # The page.
    hands = [
        Card(
            name=writer,
            command=make_command(args.models_path, writer, words),
            words=[(word, *make_picture(drawn[writer, word])) for word in words],
            line=(line, *make_picture(lines[writer, line])) if lines else None,
            statistics=measure(
                {text: image for (name, text), image in (drawn | lines).items() if name == writer}
            ),
        )
        for writer in writers
    ]
    page = render_template(
        "gallery.html.jinja",
        {},
        model=args.models_path.resolve().name,
        hands=hands,
        orders=SORTED_BY,
        seed=args.seed,
    )
    write_atomically(args.save_path, page)
    print(f"wrote       {len(hands)} hands to {args.save_path}, {len(page.encode()) / 2**20:.1f} MiB")


if __name__ == "__main__":
    run(main, parse_args())
