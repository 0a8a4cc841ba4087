"""What the page of scripts/app.py does, without the page: samples, hands from pictures, mixes, sheets."""

import base64
import binascii
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from diffusion.hand_making import check_takes_hands, draw_hand, hand_from_lines, with_hands
from diffusion.hands import Hand
from diffusion.pictures import read_lines_in_memory
from diffusion.pipeline import HandwritingPipeline
from generation.jobs import Style
from generation.planning import default_texts
from generation.sampling import SamplingSettings
from generation.sheet import Sheet, draw_sheet, plan_sheet
from utils.errors import UserError
from utils.images import trim_tail

SAMPLE = "Monday"  # what the hands of the gallery write, where the model can spell it
SAMPLE_STEPS = 8  # fewer than a sheet's: a sample is there to choose by
SHOWN_HANDS = 12  # at once
MOST_PICTURES = 10
MOST_BYTES = 8 * 2**20  # of a picture's file
MOST_BYTES_TOGETHER = 24 * 2**20
MOST_PIXELS = 30_000_000  # of a picture
MOST_NUMBER = 2**31 - 1  # of seeds and new hands
PICTURED, NEW = "your pictures", "a new hand"  # names of hands that are no writers of the model


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Whose hand is wanted.

    Attributes:
        shares: weights of writers by name, ``PICTURED`` and ``NEW`` among them.
        pictured: the hand of ``PICTURED``, once there is one.
        number: of the new hand.
    """

    shares: Mapping[str, float]
    pictured: Hand | None = None
    number: int = 0


class Desk:
    """A model, and what visitors do with it; several may at the same time.

    Attributes:
        new_hand: the random hand of a number, 0 to ``MOST_NUMBER``; see ``draw_hand``.
    """

    def __init__(self, pipeline: HandwritingPipeline) -> None:
        self.pipeline = pipeline
        self.new_hand = lru_cache(maxsize=256)(partial(draw_hand, pipeline))
        self._samples: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    # Hands
    # --------------------------------------------------------------------------------------------------------

    @property
    def takes_hands(self) -> bool:
        """Whether the model takes hands that it was not trained on."""
        try:
            check_takes_hands(self.pipeline)
        except UserError:
            return False
        return True

    def find_hands(self, words: str) -> list[str]:
        """The names that hold all of some words; in an order that shows different kinds early."""
        names = list(self.pipeline.config.writers)
        np.random.default_rng(0).shuffle(names)
        wanted = words.lower().split()
        return [name for name in names if all(word in name.lower() for word in wanted)]

    def sample_text(self) -> str:
        """What the hands of the gallery write."""
        longest, known = self.pipeline.unet.config.max_length, set(self.pipeline.config.charset.characters)
        if set(SAMPLE) <= known and len(SAMPLE) <= longest:
            return SAMPLE
        texts = default_texts(self.pipeline.config, longest)
        return min(texts, key=lambda text: abs(len(text) - len(SAMPLE)))

    def samples(self, names: Sequence[str]) -> list[np.ndarray]:
        """(H, w) uint8 samples of hands; each is drawn once."""
        with self._lock:
            missing = [name for name in names if name not in self._samples]
            if missing:
                text = self.sample_text()
                drawn = self.pipeline(
                    [text] * len(missing),
                    missing,
                    num_inference_steps=None if self.pipeline.config.student else SAMPLE_STEPS,
                    redraws=0 if self.pipeline.latent_recogniser else None,
                    variation=0.0,
                )
                self._samples.update(zip(missing, map(trim_tail, drawn), strict=True))
            return [self._samples[name] for name in names]

    def hand_of_pictures(self, pictures: Sequence[Mapping[str, str]]) -> tuple[Hand, int]:
        """The hand of pictures of someone's writing, and the number of lines that were found.

        Args:
            pictures: each with ``name`` and ``content``, a data URL.
        Raises:
            UserError: if they are too many or too large, or one is no picture or has no ink.
        """
        check_takes_hands(self.pipeline, "Pictures of a hand")
        height = self.pipeline.config.img_size[0]
        lines = []
        for name, content in read_pictures(pictures):
            lines += read_lines_in_memory(content, name, height, most_pixels=MOST_PIXELS)
        return hand_from_lines(self.pipeline, lines), len(lines)

    # Sheets
    # --------------------------------------------------------------------------------------------------------

    def write(self, text: str, choice: Choice, *, variation: float, seed: int) -> Iterator[Sheet]:
        """Draw a sheet line by line.

        Raises:
            UserError: if the text, the hand or a number can't be taken.
        """
        if not 0 <= variation <= 1 or not 0 <= seed <= MOST_NUMBER or not 0 <= choice.number <= MOST_NUMBER:
            raise UserError(
                f"Variation is 0 to 1; seeds and numbers of hands are whole numbers up to {MOST_NUMBER}."
            )
        pipeline, style = self._seat(choice)
        jobs = plan_sheet(text, pipeline, style, seed=seed)
        yield from draw_sheet(pipeline, jobs, SamplingSettings(seed=seed, variation=variation))

    def _seat(self, choice: Choice) -> tuple[HandwritingPipeline, Style]:
        """A pipeline that knows the chosen hand, and its name or shares there."""
        weights = {name: weight for name, weight in choice.shares.items() if weight > 0}
        if not weights:
            raise UserError("No hand is chosen: give at least one a share.")
        added = {}
        if PICTURED in weights:
            if choice.pictured is None:
                raise UserError("There are no pictures of a hand yet: drop some first.")
            added[PICTURED] = choice.pictured
        if NEW in weights:
            added[NEW] = self.new_hand(choice.number).hand
        pipeline = with_hands(self.pipeline, added) if added else self.pipeline
        if len(weights) == 1:
            return pipeline, next(iter(weights))
        total = sum(weights.values())
        return pipeline, {name: weight / total for name, weight in weights.items()}


def read_pictures(pictures: Sequence[Mapping[str, str]]) -> list[tuple[str, bytes]]:
    """Names and contents of pictures that came as data URLs; they stay in memory.

    Raises:
        UserError: if they are too many or too large, or no data URLs.
    """
    if not 0 < len(pictures) <= MOST_PICTURES:
        raise UserError(f"{len(pictures)} pictures: a hand is made of 1 to {MOST_PICTURES} here.")
    read = []
    for picture in pictures:
        name = str(picture.get("name", "a picture"))[:80]
        try:
            content = base64.b64decode(str(picture["content"]).partition(",")[2], validate=True)
        except (KeyError, binascii.Error) as error:
            raise UserError(f"{name}: did not arrive whole. Drop it again.") from error
        if len(content) > MOST_BYTES:
            raise UserError(
                f"{name}: {len(content) / 2**20:.1f} MB; a picture has at most {MOST_BYTES >> 20}."
            )
        read.append((name, content))
    total = sum(len(content) for _, content in read)
    if total > MOST_BYTES_TOGETHER:
        raise UserError(
            f"{total / 2**20:.0f} MB of pictures; at most {MOST_BYTES_TOGETHER >> 20} are taken together."
        )
    return read
