"""The published weights of WordStylist and of the original DiffusionHTR: found, named anew, their sizes read.

Their layout is ``<models_path>/models/{ema_ckpt,ckpt,optim}.pt``, state dicts of the published UNet. Nothing
but tensors is in them, so sizes follow from shapes; heads (4) and positions (10) were always those. Padding
has the id of the letter z, nothing is masked, no condition was ever dropped: such a model takes no guidance.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import UserError

PUBLISHED_CHARACTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
PUBLISHED_PAD_ID = 52  # z and padding are one symbol there
PUBLISHED_HEADS = 4
PUBLISHED_MAX_LENGTH = 10
FILE_NAMES = ("models/ema_ckpt.pt", "models/ckpt.pt", "ema_ckpt.pt", "ckpt.pt")

_BLOCKS = {
    "input_blocks.1.0": "down_block1",
    "input_blocks.1.1": "down_attention1",
    "input_blocks.3.0": "down_block2",
    "middle_block.0": "mid_block1",
    "middle_block.1": "mid_attention",
    "middle_block.2": "mid_block2",
    "output_blocks.0.0": "up_block1",
    "output_blocks.1.0": "up_block2",
    "output_blocks.2.0": "up_block3",
    "output_blocks.2.1": "up_attention3",
    "output_blocks.3.0": "up_block4",
    "output_blocks.3.1": "up_attention4",
}
_SINGLE = {
    "time_embed.0": "time_embedding.0",
    "time_embed.2": "time_embedding.2",
    "label_emb": "writer_embedding",
    "word_emb.embedding": "character_encoder.embedding",
    "word_emb.attention.linear_query": "character_encoder.layers.0.to_q",
    "word_emb.attention.linear_key": "character_encoder.layers.0.to_k",
    "word_emb.attention.linear_value": "character_encoder.layers.0.to_v",
    "input_blocks.0.0": "conv_in",
    "input_blocks.2.0.op": "downsample",
    "output_blocks.1.1.conv": "upsample",
    "out.0": "norm_out",
    "out.2": "conv_out",
}
_PARTS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "embedding",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "skip",
    "norm": "norm",
    "proj_in": "proj_in",
    "proj_out": "proj_out",
    "transformer_blocks.0.attn1.to_q": "attn1.to_q",
    "transformer_blocks.0.attn1.to_k": "attn1.to_k",
    "transformer_blocks.0.attn1.to_v": "attn1.to_v",
    "transformer_blocks.0.attn1.to_out.0": "attn1.to_out",
    "transformer_blocks.0.attn2.to_q": "attn2.to_q",
    "transformer_blocks.0.attn2.to_k": "attn2.to_k",
    "transformer_blocks.0.attn2.to_v": "attn2.to_v",
    "transformer_blocks.0.attn2.to_out.0": "attn2.to_out",
    "transformer_blocks.0.ff.net.0.proj": "ff.proj_in",
    "transformer_blocks.0.ff.net.2": "ff.proj_out",
    "transformer_blocks.0.norm1": "norm1",
    "transformer_blocks.0.norm2": "norm2",
    "transformer_blocks.0.norm3": "norm3",
}
# Never called in the published forward pass: a third attention, and fused key-value projections.
_DEAD = re.compile(r"\.transformer_blocks\.0\.(attnc\.|attn[12]\.to_kv\.)")


def find_published(models_path: Path) -> Path | None:
    """The weights file of a folder in the published layout (the EMA first), or None."""
    return next((models_path / name for name in FILE_NAMES if (models_path / name).is_file()), None)


def rename_published(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published UNet's tensors under this project's names.

    Raises:
        ValueError: if a key is neither known nor known to be dead; the message names it.
    """
    renamed = {}
    for key, value in state_dict.items():
        key = key.removeprefix("module.")
        if _DEAD.search(key):
            continue
        stem, _, kind = key.rpartition(".")
        target = _SINGLE.get(stem)
        if target is None:
            block = next((block for block in _BLOCKS if stem.startswith(block + ".")), None)
            part = _PARTS.get(stem[len(block) + 1 :]) if block else None
            if part is None:
                raise UserError(f"unexpected tensor {key!r}: not the published WordStylist UNet")
            target = f"{_BLOCKS[block]}.{part}"
        renamed[f"{target}.{kind}"] = value
    return renamed


def load_published(
    path: Path, *, max_length: int | None = None, flag: str = "--models_path"
) -> tuple[dict, dict[str, Tensor]]:
    """Read a published weights file, executing nothing in it.

    Args:
        max_length: positions, where they are not the usual 10.
        flag: the command line flag to name in messages.
    Returns:
        (fields of ``UNetConfig``, state dict under this project's names).
    Raises:
        ValueError: if the file is not such a state dict.
    """
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises several kinds for foreign files
        # Not torch's message: it advises to load such files by a way that runs the code in them.
        raise UserError(
            f"{flag}: {path} is not a plain PyTorch state dict ({type(error).__name__}): it is damaged, or"
            " holds more than tensors, and code from a file is never run. Get the published file again."
        ) from error
    try:
        state = rename_published(state_dict)
        fields = {
            "num_writers": state["writer_embedding.weight"].shape[0],
            "vocabulary_size": state["character_encoder.embedding.weight"].shape[0],
            "model_channels": state["conv_in.weight"].shape[0],
            "latent_channels": state["conv_in.weight"].shape[1],
            "max_length": max_length or PUBLISHED_MAX_LENGTH,
            "num_heads": PUBLISHED_HEADS,
            "pad_id": PUBLISHED_PAD_ID,
        }
    except (KeyError, AttributeError, ValueError) as error:
        raise UserError(f"{flag}: {path} is not the published UNet's state dict: {error}") from error
    return fields, state
