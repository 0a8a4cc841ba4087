"""Measure generated words against real ones: how near, how legible, in whose hand, and whether they are
copies.

  python3 evaluation/evaluate.py --real data/iam --generated data/iam_synthetic --save_dir report
  python3 evaluation/evaluate.py --real data/iam --generated data/iam_synthetic --save_dir report --recogniser
      rapidocr runs/htr \\ --style_encoder runs/style --vae runs/vae --inception_weights
      weights-inception-2015-12-05-6726825d.pth

Writes metrics.json (each number with its interval, its count and how it was measured) and report.html (the
same to read, with figures and words; it opens offline). What can't be measured is left out, with a line that
names the flag which brings it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # the project's root, from whichever folder this is run

import numpy as np
import torch

from diffusion.autoencoder import load_vae, vae_in_channels
from evaluation.comparison import Comparison, WordSet, compare_folders, name_choosers
from evaluation.figures import chart_legibility, choose_examples, list_copies
from evaluation.inception import embed_images, load_inception
from evaluation.measures import (
    LeftOut,
    ReadWords,
    Results,
    StyledWords,
    compare_readings,
    measure_distances,
    measure_legibility,
    measure_retrieval,
    measure_writer_accuracy,
)
from evaluation.pixel_measures import measure_copies, measure_diversity, measure_pixels
from evaluation.report import Report, describe_measures, render_report
from feature_extractor import StyleEncoder
from htr.error_rates import NORMALISERS
from htr.recogniser import CHOICES, Recogniser, load_recogniser
from utils.bootstrap import Bootstrap
from utils.cli import positive_int, run
from utils.errors import UserError
from utils.images import pad_to_width, to_images, to_pixel_values
from utils.output import check_no_file, write_atomically
from utils.text_images import SPLITS

METRICS_NAME, REPORT_NAME = "metrics.json", "report.html"
METRICS = ("inception", "style", "legibility", "nmae", "copies", "diversity")
Embed = Callable[[list[np.ndarray]], np.ndarray]


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    group = parser.add_argument_group("words")
    group.add_argument("--real", type=Path, required=True, help="word folder of real words")
    group.add_argument(
        "--generated",
        type=Path,
        required=True,
        help=(
            "word folder of generated words; what has the file name "
            "(and text) of a real word is compared with it"
        ),
    )
    group.add_argument(
        "--split",
        choices=(*SPLITS, "all"),
        help="the real words to compare with (default: test if there is one, else all)",
    )
    group.add_argument(
        "--train_split",
        choices=SPLITS,
        default="train",
        help=(
            "the real words that the model was trained on, "
            "among which copies are looked for (default: %(default)s)"
        ),
    )
    group.add_argument(
        "--max_words", type=positive_int, help="measure at most so many generated words, drawn by --seed"
    )
    group = parser.add_argument_group("measures")
    group.add_argument(
        "--metrics",
        nargs="+",
        choices=METRICS,
        help="only these, and an error if one can't be made (default: all that can be made)",
    )
    group.add_argument(
        "--recogniser",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help=f"legibility: {CHOICES}; several are compared",
    )
    group.add_argument(
        "--normalise",
        choices=tuple(NORMALISERS),
        default="exact",
        help=(
            "compare texts exactly, or their "
            "letters and digits without case (rapidocr hardly tells case) (default: %(default)s)"
        ),
    )
    group.add_argument("--style_encoder", type=Path, help="style: a run of evaluation/train_style_encoder.py")
    group.add_argument(
        "--inception_weights",
        type=Path,
        metavar="FILE",
        help=(
            "FID and KID: weights of FID's Inception "
            "(default: torch's cache, else the standard ones are fetched)"
        ),
    )
    group.add_argument(
        "--vae",
        help=(
            "also measure the real words encoded and decoded by this VAE: the best that a model "
            "behind it can do"
        ),
    )
    group.add_argument(
        "--bootstrap",
        type=positive_int,
        default=1000,
        metavar="N",
        help="resamples of the intervals (default: %(default)s)",
    )
    group.add_argument("--seed", type=int, default=0, help="of all drawing (default: %(default)s)")
    group = parser.add_argument_group("output")
    group.add_argument(
        "--save_dir", type=Path, required=True, help=f"folder for {METRICS_NAME} and {REPORT_NAME}"
    )
    group.add_argument("--overwrite", action="store_true", help="write them anew; other files there stay")
    group.add_argument(
        "--batch_size", type=positive_int, default=64, help="words at once (default: %(default)s)"
    )
    group.add_argument("--device", help="default: a GPU if there is one")
    args = parser.parse_args(argv)
    for metric, flag in (("legibility", "recogniser"), ("style", "style_encoder")):
        if args.metrics and metric in args.metrics and not getattr(args, flag):
            parser.error(f"--metrics {metric}: needs --{flag}")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: at least 0")
    return args


def embed_words(words: WordSet, rows: np.ndarray, embed: Embed, description: str) -> np.ndarray:
    """Features of some words, (n, d), a chunk of images at a time."""
    return np.concatenate([embed(images) for _, images in words.chunks(rows, description)])


def make_reconstructor(
    name: str, batch_size: int, device: torch.device
) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """Images to images through a VAE: encoded to the mean and decoded."""
    vae = load_vae(name).to(device)
    channels = vae_in_channels(vae)

    @torch.inference_mode()
    def reconstruct(images: list[np.ndarray]) -> list[np.ndarray]:
        if images[0].shape[0] % 8:
            raise UserError(
                f"--vae {name}: images {images[0].shape[0]} pixels high; it needs a multiple of 8"
            )
        width = -(-max(image.shape[1] for image in images) // 8) * 8
        batches = torch.from_numpy(np.stack([pad_to_width(image, width) for image in images])).split(
            batch_size
        )
        decoded = [
            vae.decode(vae.encode(to_pixel_values(batch, channels).to(device)).latent_dist.mode()).sample
            for batch in batches
        ]
        found = [image for part in decoded for image in to_images(part)]
        return [image[:, : own.shape[1]] for image, own in zip(found, images, strict=True)]

    return reconstruct


def embed_sets(
    pair: Comparison, embed: Embed, reconstruct: Callable | None, name: str
) -> dict[str, np.ndarray]:
    """Features of the equal sets by column, with ``reference``."""
    if pair.sets.size < 2:
        raise LeftOut(
            f"{name} distances: need two generated words and twice as many real ones of the same writers;"
            f" here {pair.sets.size} can be drawn. --split all allows more real words."
        )
    features = {
        "reference": embed_words(pair.real, pair.sets.reference, embed, f"{name} real"),
        "generated": embed_words(pair.generated, pair.sets.generated, embed, f"{name} generated"),
        "real": embed_words(pair.real, pair.sets.real, embed, f"{name} real"),
    }
    if reconstruct:
        features["vae"] = embed_words(
            pair.real, pair.sets.real, lambda images: embed(reconstruct(images)), f"{name} vae"
        )
    return features


def measure_inception(
    pair: Comparison,
    weights: Path | None,
    reconstruct: Callable | None,
    batch_size: int,
    device: torch.device,
    bootstrap: Bootstrap,
    results: Results,
) -> None:
    """FID and KID."""
    try:
        network, description = load_inception(weights)
    except (FileNotFoundError, ValueError) as error:
        raise error if weights else LeftOut(f"FID and KID: {error}") from error
    network.to(device)
    width = max(pair.real.widths.max(), pair.generated.widths.max())

    def embed(images: list[np.ndarray]) -> np.ndarray:
        stack = np.stack([pad_to_width(image, width) for image in images])
        return embed_images(network, stack, batch_size=batch_size, device=device)

    features = embed_sets(pair, embed, reconstruct, "inception")
    protocol = (
        f"Inception, {description}; whole images of {pair.real.height}x{width}, no crop, grey in three"
        f" channels, resized to 299x299 (bilinear, antialiased); {pair.protocol}"
    )
    results.measures += measure_distances(
        ("fid", "kid"),
        ("FID (Inception)", "KID (Inception)"),
        features.pop("reference"),
        features,
        protocol,
        bootstrap,
    )


def measure_style(
    pair: Comparison,
    encoder: StyleEncoder,
    reconstruct: Callable | None,
    batch_size: int,
    bootstrap: Bootstrap,
    results: Results,
) -> dict[str, np.ndarray]:
    """Distances in style, the writers' recognition and retrieval; returns style vectors by side, for the
    diversity.
    """

    def embed(images: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(encoder.embed(images, batch_size=batch_size), axis=1)  # vectors, then logits

    dim = encoder.config.style_dim
    found = embed_words(pair.generated, np.arange(len(pair.generated)), embed, "style generated")
    generated = StyledWords(found[:, :dim], found[:, dim:].argmax(axis=1), pair.generated.writers)
    found = embed_words(pair.real, pair.rows, embed, "style real")
    real = StyledWords(found[:, :dim], found[:, dim:].argmax(axis=1), pair.real.writers[pair.rows])
    try:
        # Scaled so that the kernel, which divides by the dimension, is (cosine + 1)^3.
        features = {
            name: vectors[:, :dim] * np.sqrt(dim)
            for name, vectors in embed_sets(pair, embed, reconstruct, "style").items()
        }
        protocol = f"vectors of the style encoder, {dim} of them, of length sqrt({dim}); {pair.protocol}"
        results.measures += measure_distances(
            ("style_fid", "style_kid"),
            ("Fréchet style distance", "Kernel style distance"),
            features.pop("reference"),
            features,
            protocol,
            bootstrap,
        )
    except LeftOut as reason:
        results.notes.append(str(reason))
    place = {int(row): i for i, row in enumerate(pair.rows)}
    readable = np.array([place[int(row)] for row in pair.readable], np.int64)
    beside = StyledWords(real.vectors[readable], real.predicted[readable], real.writers[readable])
    accuracy = measure_writer_accuracy(
        generated, beside, encoder.config.writers, pair.is_fully_paired, bootstrap
    )
    (results.notes if isinstance(accuracy, str) else results.measures).append(accuracy)
    own = np.array([place.get(int(row), -1) for row in pair.partners])
    results.measures.append(
        measure_retrieval({"generated": (generated, own), "real": (beside, readable)}, real, bootstrap)
    )
    return {"generated": generated.vectors, "real": real.vectors}


def read_words(
    pair: Comparison,
    name: str,
    recogniser: Recogniser,
    normalise: str,
    batch_size: int,
    bootstrap: Bootstrap,
    results: Results,
) -> tuple[ReadWords, ReadWords]:
    """Read generated and real words with one recogniser; returns both as read."""
    sides = []
    for words, rows, side in (
        (pair.generated, np.arange(len(pair.generated)), "generated"),
        (pair.real, pair.readable, "real"),
    ):
        readings = [
            reading
            for _, images in words.chunks(rows, f"{name} {side}")
            for reading in recogniser.read(images, batch_size=batch_size)
        ]
        texts = words.texts
        sides.append(compare_readings([texts[i] for i in rows], words.writers[rows], readings, normalise))
    results.measures += measure_legibility(name, *sides, pair.matches, normalise, bootstrap)
    chart_legibility(name, *sides, bootstrap, results)
    return sides[0], sides[1]


def check_output(folder: Path, overwrite: bool) -> None:
    """Raise ValueError if the folder can't be written to, or holds something and is not to be overwritten."""
    check_no_file(folder, "--save_dir")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(
            f"--save_dir {folder}: not empty. Name another folder, or give --overwrite: it replaces "
            f"{METRICS_NAME} and {REPORT_NAME} alone."
        )


def main(args: argparse.Namespace) -> None:
    """Read, measure, write."""
    check_output(args.save_dir, args.overwrite)
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bootstrap, results = Bootstrap(args.bootstrap, args.seed), Results()

    # What measures need, before the words: a wrong name shows at once.
    is_wanted = set(args.metrics or METRICS)
    encoder = StyleEncoder.from_pretrained(args.style_encoder).to(device) if args.style_encoder else None
    reconstruct = make_reconstructor(args.vae, args.batch_size, device) if args.vae else None
    names = dict.fromkeys(args.recogniser if "legibility" in is_wanted else ())
    recognisers = {name: load_recogniser(name, flag="--recogniser", device=device) for name in names}

    # The words.
    pair = compare_folders(args.real, args.generated, split=args.split, most=args.max_words, seed=args.seed)
    real, generated = pair.real, pair.generated
    if encoder and encoder.config.img_size[0] != real.height:
        raise UserError(
            f"--style_encoder {args.style_encoder}: trained on images {encoder.config.img_size[0]} pixels"
            f" high; those of --real {args.real} have {real.height}. Train one on this folder."
        )
    facts = [*pair.describe(), ("intervals", f"95 %, {args.bootstrap} resamples of words, seed {args.seed}")]
    for words, flag in ((real, "--real"), (generated, "--generated")):
        if words.skipped:
            results.notes.append(
                f"{flag}: {len(words.skipped)} images can't be read; the first: {words.skipped[0]}"
            )
    if pair.unshared:
        results.notes.append(
            f"{np.isin(generated.writers, pair.unshared).sum()} generated words are of writers that --real "
            f"does not have ({', '.join(pair.unshared[:3])}): no distance counts them"
        )

    for name, deed in name_choosers(args.generated).items():
        facts.append((name, deed))
        if any(
            one == name or (Path(one).exists() and Path(one).resolve() == Path(name).resolve())
            for one in recognisers
        ):
            results.notes.append(
                f"{name} {deed} and scores them too: its rates flatter. Trust another recogniser's."
            )

    # The measures.
    readings: dict[str, tuple[ReadWords, ReadWords]] = {}
    styles: dict[str, np.ndarray] = {}
    found: dict[str, np.ndarray] = {}

    def inception() -> None:
        measure_inception(
            pair, args.inception_weights, reconstruct, args.batch_size, device, bootstrap, results
        )

    def style() -> None:
        if not encoder:
            raise LeftOut("style: writer accuracy, retrieval and style distances need --style_encoder")
        styles.update(measure_style(pair, encoder, reconstruct, args.batch_size, bootstrap, results))

    def legibility() -> None:
        if not recognisers:
            raise LeftOut("legibility: CER, WER and confidence need --recogniser")
        for name, recogniser in recognisers.items():
            readings[name] = read_words(
                pair, name, recogniser, args.normalise, args.batch_size, bootstrap, results
            )

    def nmae() -> None:
        measure, found["nmae"] = measure_pixels(pair, bootstrap)
        results.measures.append(measure)

    def copies() -> None:
        measure, neighbours, train = measure_copies(pair, args.train_split, bootstrap)
        results.measures.append(measure)
        results.details["copies"] = list_copies(pair, neighbours, train)

    def diversity() -> None:
        measures = measure_diversity(pair, styles, bootstrap)
        if not measures:
            raise LeftOut(
                "diversity: no text is there several times in one hand (inference.py --num_per_word)"
            )
        results.measures += measures

    for measure in (inception, style, legibility, nmae, copies, diversity):
        if measure.__name__ in is_wanted:
            try:
                measure()
            except LeftOut as reason:
                if args.metrics:
                    raise
                results.notes.append(str(reason))

    # The report.
    first = next(iter(readings.items()), None)
    report = Report(
        f"{generated.folder.resolve().name} against {real.folder.resolve().name}",
        facts,
        results.measures,
        results.notes,
        results.charts,
        choose_examples(pair, first, found.get("nmae"), results.details.get("copies", [])),
    )
    page = render_report(report)
    content = {
        "words": dict(facts),
        "settings": {
            key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()
        },
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
