"""A VAE before its training: new, begun with another one's weights, or with its encoder and a new decoder."""

import torch
from torch import Tensor

from diffusion.autoencoder import CompactAutoencoder, load_vae
from utils.errors import UserError

FIRST_LOG_VARIANCE = -6.0  # of the posterior, before training


def make_autoencoder(
    *,
    block_out_channels: tuple[int, ...],
    layers_per_block: int,
    latent_channels: int | None = None,
    init_from: str | None = None,
) -> CompactAutoencoder:
    """A new VAE, or one that begins with the weights of another.

    Args:
        block_out_channels, layers_per_block: see ``CompactAutoencoder``.
        latent_channels: of the new VAE; by default 4, or as many as ``init_from`` has.
        init_from: a compact VAE of the same shape with as many latent channels or fewer.
    Raises:
        FileNotFoundError, UserError: if there is no such VAE, or it has another shape.
    """
    source = load_vae(init_from, flag="--init_from") if init_from else None
    if source is not None and not isinstance(source, CompactAutoencoder):
        raise UserError(f"--init_from {init_from}: not a compact VAE")
    channels = latent_channels or (source.config.latent_channels if source is not None else 4)
    vae = CompactAutoencoder(
        block_out_channels=block_out_channels, layers_per_block=layers_per_block, latent_channels=channels
    )
    # At the usual unit noise the latents carry little for the first thousand steps.
    vae.autoencoder.quant_conv.bias.data[channels:] = FIRST_LOG_VARIANCE
    if source is not None:
        _take_over(vae, source, f"--init_from {init_from}")
    return vae


def load_teacher(name: str) -> CompactAutoencoder:
    """The compact VAE of ``--distil_decoder``.

    Raises:
        FileNotFoundError, UserError: if there is none.
    """
    teacher = load_vae(name, flag="--distil_decoder")
    if not isinstance(teacher, CompactAutoencoder):
        raise UserError(f"--distil_decoder {name}: not a compact VAE")
    return teacher


def make_small_decoder(
    teacher: CompactAutoencoder, *, decoder_channels: tuple[int, ...], decoder_layers: int
) -> CompactAutoencoder:
    """The teacher's encoder with a new decoder of these sizes, see ``CompactAutoencoder``."""
    config = {name: value for name, value in teacher.config.items() if name[0] != "_"}
    sizes = {"decoder_channels": decoder_channels, "decoder_layers": decoder_layers}
    vae = CompactAutoencoder(**(config | sizes))
    for name in ("encoder", "quant_conv", "post_quant_conv"):
        getattr(vae.autoencoder, name).load_state_dict(getattr(teacher.autoencoder, name).state_dict())
    return vae


def _take_over(vae: CompactAutoencoder, source: CompactAutoencoder, name: str) -> None:
    """Copy the source's weights; further latent channels have no part in the others at first."""
    old, new = source.config.latent_channels, vae.config.latent_channels
    state, given = vae.state_dict(), source.state_dict()
    if old > new or state.keys() != given.keys():
        raise UserError(f"{name}: another shape ({old} latent channels or other blocks; this VAE has {new})")
    with torch.no_grad():
        for key, value in given.items():
            target = state[key]
            rows, columns = (_places(value, target, axis, old, new) for axis in (0, 1))
            if rows is None or columns is None or value.shape[2:] != target.shape[2:]:
                raise UserError(f"{name}: {key} is {tuple(value.shape)}, here {tuple(target.shape)}")
            target[rows] = 0
            if value.dim() == 1:
                target[rows] = value
            else:
                target[rows[:, None], columns] = value


def _places(value: Tensor, target: Tensor, axis: int, old: int, new: int) -> Tensor | None:
    """Where the entries along an axis go; None if they fit nowhere. Twice as many are means and
    log-variances.
    """
    if axis >= value.dim():
        return torch.arange(1)
    sizes = value.shape[axis], target.shape[axis]
    if sizes == (2 * old, 2 * new):
        return torch.cat([torch.arange(old), new + torch.arange(old)])
    return torch.arange(sizes[0]) if sizes[0] == sizes[1] or sizes == (old, new) else None
