"""A hand apart from any text: a style vector and little else, measured from images, drawn anew or fitted.

It is kept in a file of a few KB, or of half a MB where weights were fitted to it, and joins a model as one
more writer, so that all that takes a writer's name takes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusion.config import CheckpointConfig
from diffusion.low_rank import LowRank, hand_weights_of, misfit
from unet import UNet, grow_unet
from utils.checkpoint import one_line
from utils.errors import UserError
from utils.output import write_atomically

KIND = "hand"
STYLE_SPACE = "style_space"  # entry of config.json: which style encoder's vectors a model takes
SCALES = ("width_scale", "space_scale")  # entries of a hand's file
_ENTRIES = ("width_scale", STYLE_SPACE)
_ENDS = (".down", ".up")


@dataclass(frozen=True, eq=False, kw_only=True)
class Hand:
    """Whose hand it is.

    Attributes:
        style: (style_dim,) float32 style vector of length 1.
        width_scale: widths of its characters as a multiple of the mean hand's.
        space_scale: widths of its spaces as a further multiple.
        offset: (E,) float32, what was trained for this hand beside its vector; None: nothing was.
        low_rank: what is added to the model's weights while this hand is drawn, by their names: down (r, in),
            up (out, r), float32; empty: nothing is.
        style_space: digest of the style encoder whose vector it is.
    """

    style: Tensor
    width_scale: float
    style_space: str
    offset: Tensor | None = None
    space_scale: float = 1.0
    low_rank: LowRank = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the hand as one safetensors file."""
        tensors = {"style": self.style} | ({} if self.offset is None else {"offset": self.offset})
        for name, parts in self.low_rank.items():
            tensors |= {f"{name}{end}": part.half() for end, part in zip(_ENDS, parts, strict=True)}
        scales = {name: f"{getattr(self, name):.4f}" for name in SCALES}
        values = {"kind": KIND, **scales, STYLE_SPACE: self.style_space}
        write_atomically(path, save({name: value.contiguous() for name, value in tensors.items()}, values))

    @classmethod
    def load(cls, path: Path, *, flag: str = "--writer") -> "Hand":
        """Read what ``save`` wrote.

        Raises:
            FileNotFoundError: if there is no such file; UserError: if it is damaged, or something else.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{flag} {path}: no such file")
        try:
            with safe_open(path, framework="pt") as file:
                values = file.metadata() or {}
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"{flag} {path}: damaged, or not a hand ({one_line(error)})") from error
        if values.get("kind") != KIND or not set(_ENTRIES) <= set(values) or "style" not in tensors:
            raise UserError(f"{flag} {path}: not a hand that --save_hand or --fit_hand wrote")
        style, offset = tensors.pop("style"), tensors.pop("offset", None)
        try:
            scales = [float(values.get(name, 1.0)) for name in SCALES]  # earlier files have no space_scale
        except ValueError:
            scales = [0.0]
        parts = [style] if offset is None else [style, offset]
        names = [name.removesuffix(_ENDS[0]) for name in tensors if name.endswith(_ENDS[0])]
        low_rank = {name: tuple(tensors.get(name + end, torch.zeros(0)) for end in _ENDS) for name in names}
        if (
            not all(part.ndim == 1 and part.isfinite().all() for part in parts)
            or not all(0 < scale < 100 for scale in scales)
            or len(tensors) != 2 * len(low_rank)
            or not all(map(_is_low_rank, low_rank.values()))
        ):
            raise UserError(f"{flag} {path}: damaged: its vectors or its scales are no numbers of a hand")
        return cls(
            style=style,
            offset=offset,
            style_space=values[STYLE_SPACE],
            low_rank=low_rank,
            **dict(zip(SCALES, scales, strict=True)),
        )


def _is_low_rank(pair: tuple[Tensor, Tensor]) -> bool:
    down, up = pair
    are_matrices = down.ndim == up.ndim == 2 and len(down) == up.shape[1] > 0
    return are_matrices and bool(down.isfinite().all() and up.isfinite().all())


def check_hand(hand: Hand, unet: UNet, config: CheckpointConfig, where: str) -> None:
    """Raise a UserError unless a model takes this hand."""
    if unet.config.style_dim is None:
        raise UserError(
            f"{where}: this model knows its writers by name alone. Take one that was trained with"
            " --style_encoder."
        )
    if hand.style_space != config.extra.get(STYLE_SPACE) or len(hand.style) != unet.config.style_dim:
        raise UserError(
            f"{where}: made with another model's style encoder. Make it again from the images with this"
            " model."
        )
    width = unet.writer_embedding.weight.shape[1]
    if (hand.offset is not None and len(hand.offset) != width) or misfit(hand.low_rank, unet):
        raise UserError(f"{where}: fitted to a model of another size. Fit it again to this one.")


@torch.no_grad()
def add_hands(
    unet: UNet, config: CheckpointConfig, hands: Mapping[str, Hand]
) -> tuple[UNet, CheckpointConfig]:
    """A copy of a model that knows these hands as writers; what it knew stays as it is.

    Args:
        hands: by the names that they get, none of which the model knows.
    Raises:
        UserError: if the model can't take a hand.
    """
    for name, hand in hands.items():
        check_hand(hand, unet, config, f"hand {name!r}")
        if name in config.writers:
            raise UserError(f"hand {name!r}: the model knows a writer of this name. Give the hand another.")
    sizes = {"vocabulary_size": unet.config.vocabulary_size, "max_length": unet.config.max_length}
    first = unet.config.num_writers
    known = hand_weights_of(unet)
    known.apply(unet, ())
    grown = grow_unet(unet, num_writers=first + len(hands), **sizes)
    rows = hand_weights_of(grown).rows
    rows.update(known.rows)
    for row, hand in enumerate(hands.values(), start=first):
        grown.writer_styles[row] = hand.style
        if hand.offset is not None:
            grown.writer_embedding.weight[row] = hand.offset
        if hand.low_rank:
            rows[row] = hand.low_rank
    scales = {name: hand.width_scale for name, hand in hands.items()}
    width_model = config.width_model
    if width_model is not None:
        spaces = {name: hand.space_scale for name, hand in hands.items() if hand.space_scale != 1}
        width_model = replace(
            width_model,
            writer_scales={**width_model.writer_scales, **scales},
            space_scales={**width_model.space_scales, **spaces},
        )
    return grown, replace(config, writers=(*config.writers, *hands), width_model=width_model)


def hand_of_writer(unet: UNet, config: CheckpointConfig, name: str) -> Hand:
    """A writer of a model as a hand that can be saved."""
    row = config.writers.index(name)
    model, shares = config.width_model, {name: 1.0}
    offset = unet.writer_embedding.weight[row].detach().clone()
    return Hand(
        style=unet.writer_styles[row].clone(),
        offset=offset if offset.any() else None,
        width_scale=model.scale(shares) if model else 1.0,
        space_scale=model.space_scale(shares) if model else 1.0,
        low_rank=hand_weights_of(unet).rows.get(row, {}),
        style_space=str(config.extra[STYLE_SPACE]),
    )
