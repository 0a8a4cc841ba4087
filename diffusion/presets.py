"""The sizes that a model comes in, and the recipe that each is trained by where no flag says otherwise."""

from dataclasses import dataclass, replace

from unet import UNetConfig
from utils.errors import UserError

DEFAULT_PRESET = "base"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A size and its recipe.

    Attributes:
        channels, heads: of the UNet; see ``unet.UNetConfig``.
        text_layers: layers of the character encoder.
        layout_channels: channels of a character in the text layout.
        attention: levels with attention.
        rate: peak learning rate of AdamW.
        batch: text images a step on each process.
        recognition: weight of the recognition loss.
        is_published: built as WordStylist was published: another text encoder, no layout, no masks, no null
            conditions.
    """

    channels: int
    heads: int
    text_layers: int
    layout_channels: int
    attention: tuple[int, ...]
    rate: float
    batch: int
    recognition: float
    is_published: bool = False


# fmt: off
PRESETS = {
    "wordstylist": Preset(channels=320, heads=4, text_layers=2, layout_channels=64, attention=(1, 2),
                          rate=1e-4, batch=224, recognition=0.0, is_published=True),
    "base":        Preset(channels=320, heads=4, text_layers=2, layout_channels=64, attention=(1, 2),
                          rate=2e-4, batch=128, recognition=0.5),
    "small":       Preset(channels=96,  heads=3, text_layers=2, layout_channels=48, attention=(2,),
                          rate=6e-4, batch=64,  recognition=0.5),
    "tiny":        Preset(channels=32,  heads=2, text_layers=1, layout_channels=16, attention=(1, 2),
                          rate=2e-3, batch=32,  recognition=0.0),
}
# fmt: on


def make_config(
    preset: str,
    *,
    num_writers: int,
    vocabulary_size: int,
    max_length: int,
    latent_channels: int = 4,
    **changes,
) -> UNetConfig:
    """The UNet's configuration of a preset for a data set and a VAE; ``changes`` override single fields.

    Raises:
        UserError: if there is no such preset, or the changed sizes don't fit each other.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset {preset}: not one of {', '.join(PRESETS)}")
    row = PRESETS[preset]
    config = UNetConfig(
        num_writers=num_writers,
        vocabulary_size=vocabulary_size,
        max_length=max_length,
        latent_channels=latent_channels,
        model_channels=row.channels,
        num_heads=row.heads,
        text_encoder="published" if row.is_published else "transformer",
        text_layers=row.text_layers,
        text_layout=not row.is_published,
        layout_channels=row.layout_channels,
        attention_levels=row.attention,
        mask_padding=not row.is_published,
        has_null_condition=not row.is_published,
    )
    try:
        return replace(config, **changes)
    except ValueError as error:  # of flags such as --model_channels
        sizes = ", ".join(f"--{name} {value}" for name, value in changes.items())
        raise UserError(f"{sizes}: {error}") from error
