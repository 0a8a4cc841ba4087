"""The command line of inference.py."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from diffusion.guidance import DEFAULT_GUIDANCE
from diffusion.noise_schedule import DEFAULT_SCHEDULER, FLOW_INTERVAL, SCHEDULERS
from diffusion.pipeline import DEFAULT_REDRAWS, DEFAULT_STEPS
from generation.flag_checks import mistake_in_lines, mistake_in_sampling, mistake_in_texts
from generation.hand_flags import add_hand_flags
from generation.page_xml import XML_FORMATS
from generation.word_lines import DEFAULT_LENGTH, LINE_SOURCES
from htr.error_rates import NORMALISERS
from htr.recogniser import CHOICES
from utils.cli import HelpFormatter, parse_bool, positive_int
from utils.text_images import SPLITS
from utils.vocabulary import SCOPES

ROOT = Path(__file__).resolve().parents[1]
SHIPPED_MODEL = ROOT / "models" / "demo"
OUTPUT_FORMATS = ("folder", "webdataset", *XML_FORMATS)
PRECISIONS = ("no", "bf16", "fp16")
WORDS_PER_TAR = 1000


def parse_inference_args(argv: Sequence[str] | None, description: str) -> argparse.Namespace:
    """Parse the command line of inference.py, with the flags that change nothing refused.

    ``save_path`` is set, too: by default beside the model, but never in the program's own folder of models.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    _add_model_and_output(parser.add_argument_group("model and output"))
    _add_texts(parser.add_argument_group("what to write"))
    add_hand_flags(parser.add_argument_group("in whose hand"))
    _add_lines(parser.add_argument_group("lines and pages"))
    _add_sampling(parser.add_argument_group("how"))
    _add_selection(parser.add_argument_group("only legible words", "a wrong label harms a training set"))
    args = parser.parse_args(argv)
    for find_mistake in (mistake_in_texts, mistake_in_lines, mistake_in_sampling):
        if mistake := find_mistake(args):
            parser.error(mistake)
    args.num_per_word = args.num_per_word or 1
    args.oov_scope = args.oov_scope or SCOPES[0]
    args.words_per_tar = args.words_per_tar or WORDS_PER_TAR
    args.normalise = args.normalise or "exact"
    args.best_of = args.best_of or 1
    if args.save_path is None:
        is_of_program = args.models_path.resolve().is_relative_to(SHIPPED_MODEL.parent)
        args.save_path = (Path() if is_of_program else args.models_path) / "samples"
    return args


def parse_shard(value: str) -> tuple[int, int]:
    """``I/N`` with 0 <= I < N, for ``argparse``."""
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if not match or not int(match.group(1)) < int(match.group(2)):
        raise argparse.ArgumentTypeError(f"{value!r} is not I/N with I from 0 to N - 1")
    return int(match.group(1)), int(match.group(2))


# Flags
# ------------------------------------------------------------------------------------------------------------


def _add_model_and_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--models_path",
        type=Path,
        default=SHIPPED_MODEL,
        help=(
            "checkpoint, run of train_diffusion.py (its newest checkpoint), or folder with the published"
            " models/ema_ckpt.pt (default: the model that ships with the program, models/demo)"
        ),
    )
    group.add_argument(
        "--save_path",
        type=Path,
        help="folder to write (default: <models_path>/samples; with a model that ships ./samples)",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="write a finished folder, or one of other settings, anew"
    )
    group.add_argument(
        "--output_format",
        choices=OUTPUT_FORMATS,
        default="folder",
        help=(
            "folder of text images; WebDataset tar files, for millions of them; or pages of a --corpus with"
            " PAGE or ALTO files"
        ),
    )
    group.add_argument(
        "--words_per_tar",
        type=positive_int,
        help=f"words in a tar file of --output_format webdataset (default: {WORDS_PER_TAR})",
    )
    group.add_argument(
        "--vae",
        help="VAE in place of the checkpoint's: folder or Hugging Face id; needed with published weights",
    )
    group.add_argument(
        "--writer_dict", type=Path, help="JSON file of writer names to embedding rows, for published weights"
    )
    group.add_argument(
        "--max_length",
        type=positive_int,
        help="longest text in characters of published weights (default: 10)",
    )


def _add_texts(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--words",
        nargs="+",
        help="words (default: some that the model was trained on; for older checkpoints common English ones)",
    )
    group.add_argument("--words_file", type=Path, help="text file in UTF-8, one word or phrase a line")
    group.add_argument(
        "--dataset_path",
        type=Path,
        help="folder of text images: its texts again, each in its own writer's style",
    )
    group.add_argument("--split", choices=SPLITS, help="split of --dataset_path (default: all)")
    group.add_argument(
        "--skip_unknown",
        action="store_true",
        help="count and leave out words that the model can't write, instead of ending with an error",
    )
    group.add_argument(
        "--oov",
        type=positive_int,
        metavar="N",
        help=(
            "number of new words for each writer of --dataset_path (or of --writer), which its training words"
            " there lack; of their lengths, with rare characters well represented; from --words_file or a"
            " dictionary"
        ),
    )
    group.add_argument(
        "--oov_scope",
        choices=SCOPES,
        help=f"what --oov words are new to: their writer, or the whole data set (default: {SCOPES[0]})",
    )
    group.add_argument(
        "--num_per_word", type=positive_int, help="images of each word and writer (default: 1)"
    )
    group.add_argument(
        "--single_image",
        type=parse_bool,
        default=True,
        metavar="True|False",
        help="True: one PNG a word; False: also one sheet a word, with all its writers",
    )


def _add_lines(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--corpus",
        type=Path,
        help=(
            "text file, one paragraph a line, for --unit line: broken into lines of natural length for the"
            " writer, each written once; writers take turns, by line or by page"
        ),
    )
    group.add_argument(
        "--unit",
        choices=("word", "line"),
        default="word",
        help=(
            "word: each text is an image as the model draws it; line: each is a line of writing, see"
            " --line_from"
        ),
    )
    group.add_argument(
        "--line_from",
        choices=LINE_SOURCES,
        help=(
            "what draws a line of --unit line; model: the model, as one text; words: its words are drawn one"
            " by one and put on a baseline, at the size that they have in a line (default: model, if it was"
            " trained on lines, else words)"
        ),
    )
    group.add_argument(
        "--line_length",
        type=positive_int,
        help=(
            "length of the lines of --corpus, in mean widths of a character; lines of wide writing have fewer"
            f" characters (default: {DEFAULT_LENGTH:g})"
        ),
    )
    group.add_argument(
        "--paper",
        type=Path,
        help=(
            "picture of empty paper to write pages on, or folder of such pictures, one drawn for each page"
            " (default: white)"
        ),
    )


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--num_steps",
        type=positive_int,
        help=(
            f"denoising steps (default: {DEFAULT_STEPS}; a student of --distil_from has its own number, and"
            " takes no other)"
        ),
    )
    group.add_argument(
        "--scheduler", choices=SCHEDULERS, help=f"sampler (default: {DEFAULT_SCHEDULER}; none for a student)"
    )
    group.add_argument(
        "--guidance_scale",
        type=float,
        help=(
            f"weight of the text; 1 is no guidance (default: {DEFAULT_GUIDANCE:g}, or 1 for a model trained"
            " without null conditions; a student has learnt its guidance, and takes none)"
        ),
    )
    group.add_argument(
        "--writer_guidance_scale", type=float, help="weight of the writer's style (default: --guidance_scale)"
    )
    group.add_argument(
        "--guidance_interval",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help=(
            "noise levels with guidance, from 0 (clean) to 1 (noise); the others take half of the time"
            f" (default: {FLOW_INTERVAL[0]:g} {FLOW_INTERVAL[1]:g} for a model of flow prediction, else all)"
        ),
    )
    group.add_argument("--seed", type=int, default=0, help="random seed: another one gives other drawings")
    group.add_argument(
        "--batch_size",
        type=positive_int,
        default=32,
        help="words drawn at once; a matter of speed and memory, not of the result",
    )
    group.add_argument("--mixed_precision", choices=PRECISIONS, default="no", help="arithmetic of the UNet")
    group.add_argument(
        "--compile", action="store_true", help="torch.compile the UNet: pays on a GPU, for thousands of words"
    )
    group.add_argument("--device", help="e.g. cpu or cuda:1 (default: a GPU if there is one)")
    group.add_argument(
        "--shard",
        type=parse_shard,
        metavar="I/N",
        help=(
            "part I (from 0) of N to write; the last part to finish puts them together (under accelerate"
            " launch each process is a part)"
        ),
    )


def _add_selection(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--redraws",
        type=int,
        metavar="N",
        help=(
            "most times that a word is drawn again which the model's own latent recogniser can't read; the"
            f" best is kept (default: {DEFAULT_REDRAWS}, or 0 without a latent recogniser)"
        ),
    )
    group.add_argument(
        "--recogniser",
        metavar="NAME",
        help=f"recogniser that reads every word: {CHOICES}. Judge the words by another one afterwards",
    )
    group.add_argument(
        "--best_of",
        type=positive_int,
        help=(
            "most variants of a word, until one is read within --max_cer (or without error); the best is kept"
            " (default: 1)"
        ),
    )
    group.add_argument(
        "--max_cer",
        type=float,
        help="highest character error rate of a word that is kept, e.g. 0 or 0.2 (default: all are kept)",
    )
    group.add_argument(
        "--normalise",
        choices=tuple(NORMALISERS),
        help=(
            "how texts are compared: exactly; by their letters and digits without case; or, folded, without"
            " accents too (default: exact)"
        ),
    )
