"""The encoded images of a training: where they are kept, and what of them is removed, and when.

They lie in the run's folder, which keeps those of its last images and VAE alone, and are removed with it. A
folder named on the command line is shared by runs, and loses only what killed processes left half done.
"""

import shutil
import time
from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from diffusion.autoencoder import vae_in_channels
from diffusion.dataset import LatentCache, build_latent_cache, cache_key
from utils.sources import TrainingSet

RUN_CACHE_FOLDER = "latent_cache"
ABANDONED_AFTER = 2 * 24 * 3600  # seconds after which nobody can still be writing a half-written cache


def tidy_cache_root(root: Path, key: str, *, is_shared: bool) -> None:
    """Remove what nobody will use again; call it on one process, under the run's lock.

    Args:
        root: the folder that holds caches.
        key: the name of the cache that is about to be used; see ``dataset.cache_key``.
        is_shared: whether other runs use the folder.
    """
    for path in root.iterdir() if root.is_dir() else ():
        if is_shared:
            age = time.time() - path.stat().st_mtime
            is_useless = path.name.startswith(".tmp-") and age > ABANDONED_AFTER
        else:
            is_useless = path.name != key
        if is_useless:
            shutil.rmtree(path, ignore_errors=True)


def encode_training_set(
    words: TrainingSet,
    vae: nn.Module,
    vae_hash: str,
    accelerator: Accelerator,
    root: Path,
    *,
    is_shared: bool,
) -> LatentCache:
    """The latents of all images, each encoded once: the main process does it while the others wait.

    Args:
        root: the folder that holds them; ``is_shared`` with other runs.
    """
    vae.to(accelerator.device)
    # Stable Diffusion's VAE overflows in fp16; bf16 is four times as fast as fp32 on a CPU that has it.
    autocast = nullcontext if accelerator.mixed_precision == "fp16" else accelerator.autocast
    with accelerator.main_process_first(), autocast():
        if accelerator.is_main_process:
            tidy_cache_root(root, cache_key(words.paths, vae_hash), is_shared=is_shared)
        folder = build_latent_cache(
            words.paths,
            vae,
            vae_hash,
            root,
            channels=vae_in_channels(vae),
            device=accelerator.device,
            is_main=accelerator.is_main_process,
        )
    vae.to("cpu")
    return LatentCache(folder)
