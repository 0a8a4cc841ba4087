"""Whose hand inference writes in: hand files, new hands and pictures become writers of the model."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffusion.hand_making import check_takes_hands, draw_hand, hand_from_lines, mix_hands
from diffusion.hands import Hand, check_hand, hand_of_writer
from diffusion.pictures import read_lines
from diffusion.pipeline import HandwritingPipeline
from generation.jobs import choose_writers, parse_mix
from utils.errors import UserError

NEW = "new"
HAND_SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Hands:
    """The hands that a job adds to a model, and its writers by the names that they have there.

    Attributes:
        writer, mix: the flags' values; what stood for a hand is its name now.
        added: by name.
        notes: lines to tell the user.
    """

    writer: Sequence[str] | None
    mix: Sequence[str] | None
    added: dict[str, Hand] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def fingerprints(self) -> dict[str, str]:
        """What tells each added hand from another of its name."""
        digests = {}
        for added, hand in self.added.items():
            offset = b"" if hand.offset is None else hand.offset.float().cpu().numpy().tobytes()
            scales = repr(hand.width_scale) + (repr(hand.space_scale) if hand.space_scale != 1 else "")
            content = hand.style.float().cpu().numpy().tobytes() + offset + scales.encode()
            for name, parts in sorted(hand.low_rank.items()):
                content += name.encode() + b"".join(part.half().cpu().numpy().tobytes() for part in parts)
            digests[added] = hashlib.sha256(content).hexdigest()[:16]
        return digests


class _Gathering:
    """Hands on their way into a model: each has one name, however often it is asked for."""

    def __init__(self, pipeline: HandwritingPipeline, seed: int) -> None:
        self.pipeline, self.seed = pipeline, seed
        self.known = pipeline.config.writers
        self.added: dict[str, Hand] = {}
        self.notes: list[str] = []
        self._names: dict[str, str] = {}

    def add(self, key: str, name: str, hand: Hand) -> str:
        """Add a hand under a name that is free; returns it."""
        free, number = name, 2
        while free in self.known or free in self.added:
            free, number = f"{name}-{number}", number + 1
        self.added[free], self._names[key] = hand, free
        if free != name:
            self.notes.append(
                f"hand        {name!r} is called {free!r}: the model knows a writer of its name"
            )
        return free

    def name_of(self, value: str, flag: str) -> str:
        """The name of the writer that a value of ``--writer`` or ``--mix`` means."""
        if value in self.known or value in self.added:
            return value
        if value in self._names:
            return self._names[value]
        word, colon, number = value.partition(":")
        path = Path(value)
        if word == NEW and (not colon or number.isdecimal()):
            return self._draw(value, int(number) if colon else self.seed)
        if path.is_file():
            hand = Hand.load(path, flag=flag)
            check_hand(hand, self.pipeline.unet, self.pipeline.config, f"{flag} {path}")
            return self.add(value, path.stem, hand)
        if path.suffix == HAND_SUFFIX or path.is_dir():
            raise UserError(
                f"{flag} {path}: no such file, and no writer of this name. Pictures of a hand are given with"
                " --style_images."
            )
        return value

    def _draw(self, value: str, number: int) -> str:
        new = draw_hand(self.pipeline, number)
        name = self.add(value, f"{NEW}-{number}", new.hand)
        self.notes.append(
            f"hand        {name}: nearest trained writer {new.nearest}, {new.distance:.3f} away"
        )
        return name


def gather_hands(
    pipeline: HandwritingPipeline,
    *,
    writer: Sequence[str] | None,
    mix: Sequence[str] | None,
    style_images: Sequence[Path] | None,
    seed: int,
) -> Hands:
    """The hands of these flags, which the model still has to be given (``HandwritingPipeline.add_hands``).

    Raises:
        FileNotFoundError, UserError: for files that are no hands or pictures, hands of another model, and a
            model that takes none.
    """
    gathering = _Gathering(pipeline, seed)
    pictured = None
    if style_images:
        check_takes_hands(pipeline, f"--style_images {style_images[0]}")
        lines = read_lines(style_images, pipeline.config.img_size[0])
        pictured = gathering.add("", style_images[0].resolve().stem, hand_from_lines(pipeline, lines))
        gathering.notes.append(f"hand        {pictured}: made of {len(lines)} lines")
    if writer and choose_writers(writer, pipeline.config.writers) == list(writer):
        writer = [gathering.name_of(value, "--writer") for value in writer]
        names = writer
    elif mix:
        parts = [value.rpartition(":") for value in mix]
        pairs = [(name if colon else share, share if colon else "") for name, colon, share in parts]
        pairs = [(gathering.name_of(name, "--mix"), share) for name, share in pairs]
        mix = [f"{name}:{share}" if share else f"{name}:1" for name, share in pairs]
        names = [name for name, _ in pairs]
    else:
        names = writer = writer or ([pictured] if pictured else None)
    if pictured and names and pictured not in names and writer not in (["all"], ["random"]):
        flag = "--mix" if mix else "--writer"
        raise UserError(
            f"--style_images {style_images[0]}: its hand is called {pictured!r}, which {flag} does not name."
            f" Add it there, or leave {flag} out."
        )
    return Hands(writer=writer, mix=mix, added=gathering.added, notes=tuple(gathering.notes))


def save_hand(
    pipeline: HandwritingPipeline,
    path: Path,
    *,
    writer: Sequence[str] | None,
    mix: Sequence[str] | None,
    overwrite: bool,
) -> None:
    """Save the one hand that is written in.

    Args:
        writer, mix: as ``gather_hands`` gives them; the pipeline knows all of their names.
        overwrite: whether another hand's file may be replaced.
    Raises:
        UserError: if there are several hands, the model has none, or the file holds something else.
    """
    check_takes_hands(pipeline, f"--save_hand {path}")
    names = choose_writers(writer, pipeline.config.writers) if writer else None
    if mix:
        hand = mix_hands(pipeline, parse_mix(mix))
    elif names is not None and len(set(names)) == 1:
        hand = hand_of_writer(pipeline.unet, pipeline.config, names[0])
    else:
        many = f"{len(set(names))} hands" if names else "no one hand"
        raise UserError(
            f"--save_hand {path}: {many} to save. Name one by --writer or --style_images, or a mix of several"
            " by --mix."
        )
    new = Hands(writer=None, mix=None, added={"": hand}).fingerprints()
    if path.exists():
        old = Hands(writer=None, mix=None, added={"": Hand.load(path, flag="--save_hand")}).fingerprints()
        if old == new:
            return
        if not overwrite:
            raise UserError(
                f"--save_hand {path}: holds another hand. Name another file, or give --overwrite."
            )
    hand.save(path)
