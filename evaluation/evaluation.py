"""The measures of an evaluation, one after the other: what each needs, and what it leaves for the report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from evaluation.comparison import Comparison
from evaluation.copies import measure_copies
from evaluation.features import Reconstruct, measure_inception, measure_squares
from evaluation.figures import chart_legibility, list_copies
from evaluation.hwd import WEIGHTS_URL, measure_hwd
from evaluation.legibility import ReadImages, measure_legibility, read_images
from evaluation.measures import LeftOut, Results
from evaluation.pixel_measures import measure_pixels, measure_variety
from evaluation.strokes import measure_strokes
from evaluation.styles import measure_style
from feature_extractor import StyleEncoder
from htr.reading import Recogniser
from utils.bootstrap import Bootstrap


@dataclass(frozen=True, kw_only=True)
class Judges:
    """What measures need beside the images.

    Attributes:
        encoder: of style, if there is one.
        reconstruct: images through a VAE, if there is one.
        recognisers: by the name that they were loaded by.
        normalise: how texts are compared, a name of ``NORMALISERS``.
        inception_weights: a file; None for the standard weights.
        hwd_weights: a file; None without HWD.
        train_split: the split of real images among which copies are looked for.
        batch_size: images at once.
    """

    encoder: StyleEncoder | None
    reconstruct: Reconstruct | None
    recognisers: Mapping[str, Recogniser]
    normalise: str
    inception_weights: Path | None
    hwd_weights: Path | None
    train_split: str
    batch_size: int
    device: torch.device


@dataclass
class Evaluation:
    """One evaluation as it goes on.

    Attributes:
        readings: by recogniser, what it read in generated and in real images.
        styles: style vectors by side, see ``measure_style``.
        differences: (len(generated),) NMAE of each image, if it was measured.
    """

    pair: Comparison
    judges: Judges
    bootstrap: Bootstrap
    results: Results = field(default_factory=Results)
    readings: dict[str, tuple[ReadImages, ReadImages]] = field(default_factory=dict)
    styles: dict[str, np.ndarray] = field(default_factory=dict)
    differences: np.ndarray | None = None

    def inception(self) -> None:
        """FID and KID."""
        self.results.measures += measure_inception(
            self.pair,
            self.judges.inception_weights,
            self.judges.reconstruct,
            batch_size=self.judges.batch_size,
            device=self.judges.device,
            bootstrap=self.bootstrap,
        )

    def hwd(self) -> None:
        """HWD, writer by writer."""
        if self.judges.hwd_weights is None:
            raise LeftOut(f"hwd: needs --hwd_weights FILE; the published ones are {WEIGHTS_URL}")
        measure, self.results.details["hwd"] = measure_hwd(
            self.pair, self.judges.hwd_weights, self.judges.device, self.bootstrap
        )
        self.results.measures.append(measure)

    def squares(self) -> None:
        """FID and BFID as they are reported beside HWD."""
        if self.judges.hwd_weights is None:
            raise LeftOut("squares: FID and BFID as they are reported beside HWD come with --hwd_weights")
        self.results.measures += measure_squares(
            self.pair,
            self.judges.inception_weights,
            batch_size=self.judges.batch_size,
            device=self.judges.device,
            bootstrap=self.bootstrap,
        )

    def style(self) -> None:
        """Distances in style, and the right writer."""
        if self.judges.encoder is None:
            raise LeftOut("style: right writer, retrieval and style distances need --style_encoder")
        self.styles = measure_style(
            self.pair,
            self.judges.encoder,
            self.judges.reconstruct,
            batch_size=self.judges.batch_size,
            bootstrap=self.bootstrap,
            results=self.results,
        )

    def legibility(self) -> None:
        """Error rates and confidence of each recogniser."""
        if not self.judges.recognisers:
            raise LeftOut("legibility: CER, WER and confidence need --recogniser")
        for name, recogniser in self.judges.recognisers.items():
            generated, real = read_images(
                self.pair, name, recogniser, self.judges.normalise, self.judges.batch_size
            )
            self.readings[name] = generated, real
            self.results.measures += measure_legibility(
                name, generated, real, self.pair.matches, self.judges.normalise, self.bootstrap
            )
            chart_legibility(name, generated, real, self.bootstrap, self.results)

    def strokes(self) -> None:
        """Statistics of strokes, by writer."""
        measures, self.results.details["strokes"] = measure_strokes(self.pair, self.bootstrap)
        self.results.measures += measures

    def nmae(self) -> None:
        """Pixel differences of the same records."""
        measure, self.differences = measure_pixels(self.pair, self.bootstrap)
        self.results.measures.append(measure)

    def copies(self) -> None:
        """Copies of training images."""
        measure, neighbours, train = measure_copies(self.pair, self.judges.train_split, self.bootstrap)
        self.results.measures.append(measure)
        self.results.details["copies"] = list_copies(self.pair, neighbours, train)

    def diversity(self) -> None:
        """Variety of several images of one text by one writer."""
        measures = measure_variety(self.pair, self.styles, self.bootstrap)
        if not measures:
            raise LeftOut(
                "diversity: no text is there several times by one writer (inference.py --num_per_word)"
            )
        self.results.measures += measures


# In this order: the variety of style uses the vectors that the style leaves.
METRICS: dict[str, Callable[[Evaluation], None]] = {
    "inception": Evaluation.inception,
    "hwd": Evaluation.hwd,
    "squares": Evaluation.squares,
    "legibility": Evaluation.legibility,
    "style": Evaluation.style,
    "diversity": Evaluation.diversity,
    "strokes": Evaluation.strokes,
    "nmae": Evaluation.nmae,
    "copies": Evaluation.copies,
}
