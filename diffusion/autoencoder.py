"""The compact VAE: diffusers' AutoencoderKL for ink behind space-to-depth, and the loading of any VAE.

Interface and vocabulary are diffusers': ``encode(pixel_values).latent_dist``, ``decode(latents).sample``,
``config.scaling_factor``. Pixels are grey, (B, 1, H, W) in [-1, 1]; latents are (B, C, H/8, W/8) with the C
of ``config.latent_channels``.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import Decoder, DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from torch import Tensor, nn

from utils.checkpoint import CONFIG_NAME, find_in_run, load_weights, one_line
from utils.errors import UserError
from utils.hub import hub_answers, is_cached
from utils.images import to_images
from utils.json_files import read_json

VAE_FOLDER = "vae"
DOWNSCALE = 8  # pixels per latent cell, each way, of every VAE used here


class CompactAutoencoder(ModelMixin, ConfigMixin):
    """A KL autoencoder for grey word images, 8x smaller each way, with a small fraction of Stable Diffusion's
    work.

    Pixels are first folded by space-to-depth (4x4 pixels become 16 channels), so that the convolutions run at
    a quarter of the resolution; an AutoencoderKL of two levels does the rest. It has no attention: it works
    on any width, and a word's reconstruction does not depend on what lies far away.

    Args:
        space_to_depth: pixels folded into channels, each way.
        block_out_channels: channels of the two levels.
        layers_per_block: ResNet blocks a level in the encoder (the decoder has one more).
        latent_channels: channels of the latents.
        scaling_factor: factor that brings latents to about unit variance.
        shift_factor: mean of the latents, subtracted before scaling.
        decoder_channels, decoder_layers: of a decoder with other sizes than the encoder's: one that was
            distilled to be fast. None is the same.

    Source: Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3.1; space-to-depth: Shi et al.
    2016, https://arxiv.org/abs/1609.05158.
    """

    config_name = CONFIG_NAME

    @register_to_config
    def __init__(
        self,
        space_to_depth: int = 4,
        block_out_channels: tuple[int, ...] = (64, 128),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        decoder_channels: tuple[int, ...] | None = None,
        decoder_layers: int | None = None,
    ) -> None:
        super().__init__()
        levels = len(block_out_channels)
        if space_to_depth * 2 ** (levels - 1) != DOWNSCALE:
            raise UserError(
                f"space_to_depth {space_to_depth} with {levels} levels is not {DOWNSCALE}x smaller"
            )
        folded = space_to_depth**2
        self.autoencoder = AutoencoderKL(
            in_channels=folded,
            out_channels=folded,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers_per_block,
            latent_channels=latent_channels,
            norm_num_groups=16,
            mid_block_add_attention=False,
        )
        if decoder_channels is not None or decoder_layers is not None:
            self.autoencoder.decoder = Decoder(
                in_channels=latent_channels,
                out_channels=folded,
                up_block_types=("UpDecoderBlock2D",) * levels,
                block_out_channels=tuple(decoder_channels or block_out_channels),
                layers_per_block=decoder_layers or layers_per_block,
                norm_num_groups=16,
                mid_block_add_attention=False,
            )

    @property
    def in_channels(self) -> int:
        """Channels of the pixels: 1, grey."""
        return 1

    def encode(self, pixel_values: Tensor) -> AutoencoderKLOutput:
        """Posterior of the latents of (B, 1, H, W) pixels in [-1, 1]; H and W are multiples of 8."""
        return self.autoencoder.encode(F.pixel_unshuffle(pixel_values, self.config.space_to_depth))

    def decode(self, latents: Tensor) -> DecoderOutput:
        """(B, 1, H, W) pixels, about [-1, 1], of unscaled (B, C, H/8, W/8) latents."""
        return DecoderOutput(
            sample=F.pixel_shuffle(self.autoencoder.decode(latents).sample, self.config.space_to_depth)
        )

    def forward(
        self, pixel_values: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, AutoencoderKLOutput]:
        """Reconstruct through a sampled latent; returns (pixels, posterior), which is what training needs."""
        posterior = self.encode(pixel_values)
        return self.decode(posterior.latent_dist.sample(generator)).sample, posterior


def vae_in_channels(vae: nn.Module) -> int:
    """1 for a compact VAE, 3 for Stable Diffusion's."""
    return vae.in_channels if isinstance(vae, CompactAutoencoder) else vae.config.in_channels


def load_vae(name_or_path: str | Path, *, flag: str = "--vae") -> CompactAutoencoder | AutoencoderKL:
    """Load a VAE from a folder or the Hugging Face hub, on the CPU, in fp32, in evaluation mode.

    Args:
        name_or_path: a folder with ``config.json`` (compact or Stable Diffusion's), a folder with such a
            ``vae`` subfolder, a run of ``diffusion/train_autoencoder.py`` (its newest checkpoint), or a hub
            id such as ``stable-diffusion-v1-5/stable-diffusion-v1-5`` or ``stabilityai/sd-vae-ft-mse``.
    Raises:
        FileNotFoundError: if the folder holds no VAE, or the hub can't be reached and has no cached copy.
            There is never a silent fallback to another VAE.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        holder = find_in_run(path, f"{VAE_FOLDER}/{CONFIG_NAME}")
        candidates = [path, *([holder / VAE_FOLDER] if holder else [])]
        folder = next((candidate for candidate in candidates if is_vae_folder(candidate)), None)
        if folder is not None:
            # Channels last encode twice as fast on a CPU.
            return (
                _load_folder(folder, flag).eval().requires_grad_(False).to(memory_format=torch.channels_last)
            )
        raise FileNotFoundError(
            f"{flag} {path}: no VAE there (a folder with {CONFIG_NAME} and its weights, or with a "
            f"{VAE_FOLDER} folder). diffusion/train_autoencoder.py makes one."
        )
    if path.is_absolute() or str(name_or_path).startswith((".", "~")) or str(name_or_path).count("/") != 1:
        raise FileNotFoundError(
            f"{flag} {name_or_path}: no such folder, and not a Hugging Face id (owner/name)."
        )
    return _load_from_hub(str(name_or_path), flag).eval().requires_grad_(False)


def is_vae_folder(path: Path) -> bool:
    """True if ``path`` directly holds a VAE's configuration and weights."""
    if not (path / CONFIG_NAME).is_file():
        return False
    kind = read_json(path / CONFIG_NAME).get("_class_name")
    return kind in ("AutoencoderKL", "CompactAutoencoder") and any(path.glob("*.safetensors"))


def _load_folder(path: Path, flag: str) -> CompactAutoencoder | AutoencoderKL:
    name = read_json(path / CONFIG_NAME, flag)["_class_name"]
    try:
        if name == "CompactAutoencoder":
            vae = CompactAutoencoder.from_config(CompactAutoencoder.load_config(path))
            vae.load_state_dict(load_weights(path / SAFETENSORS_WEIGHTS_NAME))
        else:
            # Never the pickled weights that lie beside the others in some folders.
            vae = AutoencoderKL.from_pretrained(path, local_files_only=True, use_safetensors=True)
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"{flag} {path}: not readable as a VAE ({one_line(error)})") from error
    # A checkpoint that is passed on says nothing about the disk it came from.
    vae.register_to_config(_name_or_path="")
    return vae


def _load_from_hub(hub_id: str, flag: str) -> AutoencoderKL:
    """Load from the local hub cache, else from the hub if it answers within seconds."""
    from huggingface_hub import constants
    from huggingface_hub.utils import HfHubHTTPError

    subfolder = None if "vae" in hub_id.lower() else VAE_FOLDER
    config = f"{subfolder}/{CONFIG_NAME}" if subfolder else CONFIG_NAME
    weights = config.replace(CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME)
    is_local = is_cached(hub_id, config, [weights])
    if not is_local and not hub_answers():
        raise FileNotFoundError(
            f"{flag} {hub_id}: no such folder; {constants.ENDPOINT} can't be reached from here, and the local"
            f" cache ({constants.HF_HUB_CACHE}) has no such VAE. Give {flag} a folder that holds one (a copy"
            " of a Stable Diffusion 'vae' folder, or what diffusion/train_autoencoder.py makes), or fetch it"
            f" on a machine with a connection: hf download {hub_id}"
            + (f" --include '{subfolder}/*'" if subfolder else "")
        )
    try:
        return AutoencoderKL.from_pretrained(
            hub_id, subfolder=subfolder, local_files_only=is_local, use_safetensors=True
        )
    except (OSError, HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"{flag} {hub_id}: no such folder, and the hub has no VAE by this name ({type(error).__name__})."
            " Known good: stable-diffusion-v1-5/stable-diffusion-v1-5, stabilityai/sd-vae-ft-mse."
        ) from error


def hash_vae(vae: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 over the VAE's weights (fp32) and its scale: names its latents."""
    digest = hashlib.sha256(repr((vae.config.scaling_factor, vae.config.get("shift_factor"))).encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def scale_latents(vae: nn.Module, latents: Tensor) -> Tensor:
    """The VAE's latents to about unit variance: (latents - shift_factor) * scaling_factor."""
    return (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor


def unscale_latents(vae: nn.Module, latents: Tensor) -> Tensor:
    """The inverse of ``scale_latents``."""
    return latents / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)


@torch.no_grad()
def decode_latents(vae: nn.Module, latents: Tensor) -> np.ndarray:
    """(N, 4, h, w) scaled latents to (N, 8h, 8w) uint8 images.

    Raises:
        UserError: if what the decoder gives is not finite: it would become black images.
    """
    decoded = vae.decode(unscale_latents(vae, latents)).sample
    if not decoded.isfinite().all():
        raise UserError(
            "the VAE's decoder gives values that are not finite. Give --mixed_precision no (or bf16 in place"
            " of fp16); if that does not help, its weights are damaged: copy or train it again."
        )
    return to_images(decoded)
