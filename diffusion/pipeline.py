"""The one way from texts to images: for inference, previews, evaluation, and one's own Python.

from diffusion.pipeline import HandwritingPipeline
pipeline = HandwritingPipeline.from_pretrained("runs/iam")
images = pipeline(["handwriting", "archive"], ["000", {"000": 0.7, "011": 0.3}])   # (N, H, W) uint8
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn

from diffusion.autoencoder import (
    DOWNSCALE,
    VAE_FOLDER,
    CompactAutoencoder,
    decode_latents,
    hash_vae,
    load_vae,
)
from diffusion.config import CheckpointConfig
from diffusion.guidance import GuidedModel, Writer
from diffusion.hands import Hand, add_hands
from diffusion.latent_recogniser import LATENT_RECOGNISER_FOLDER, LatentRecogniser
from diffusion.legibility import draw_legibly
from diffusion.loading import STYLE_ENCODER_FOLDER, load_checkpoint, load_published_generator
from diffusion.low_rank import hand_weights_of
from diffusion.noise_schedule import DEFAULT_SCHEDULER, draw_noise, sample_latents
from diffusion.published import find_published
from diffusion.variation import DEFAULT_VARIATION
from feature_extractor import StyleEncoder
from unet import UNet
from utils.charset import normalise_text
from utils.checkpoint import CONFIG_NAME, WEIGHTS_NAME, list_checkpoints, save_weights, share_files
from utils.errors import UserError
from utils.training import make_generator

DEFAULT_STEPS = 12
DEFAULT_REDRAWS = 2


class HandwritingPipeline(GuidedModel):
    """UNet, VAE, noise schedule, charset, writers and width model: everything that writing needs.

    Attributes:
        latent_recogniser: says which words came out illegible; None for a model that was trained without.
        style_encoder: makes the style vectors of a model that takes hands from images; else None.
    """

    def __init__(
        self,
        unet: UNet,
        vae: nn.Module,
        config: CheckpointConfig,
        latent_recogniser: LatentRecogniser | None = None,
        style_encoder: StyleEncoder | None = None,
    ) -> None:
        super().__init__(unet, config, latent_recogniser)
        self.style_encoder = style_encoder
        self.vae = vae

    # Loading and saving
    # ---------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        models_path: str | Path,
        *,
        vae: str | Path | None = None,
        writer_dict: Mapping[str, int] | None = None,
        max_length: int | None = None,
        warn: Callable[[str], None] = print,
        flag: str = "--models_path",
    ) -> "HandwritingPipeline":
        """Load a checkpoint, a run's newest checkpoint, or the published weights.

        Args:
            vae: another VAE than the checkpoint names; needed for published weights.
            writer_dict: names to rows, for published weights; without, writers are called by their numbers.
            max_length: positions of published weights, where they are not 10.
            warn: takes a line of warning.
            flag: the command line flag to name in messages.
        Raises:
            FileNotFoundError, ValueError: with the flag, the value and the way out.
        """
        models_path = Path(models_path)
        published = find_published(models_path) if models_path.is_dir() else None
        if published is not None and not list_checkpoints(models_path):
            generator = load_published_generator(
                published, vae=vae, writer_dict=writer_dict, max_length=max_length, flag=flag
            )
        else:
            generator = load_checkpoint(models_path, vae=vae, warn=warn, flag=flag)
        return cls(
            generator.unet,
            generator.vae,
            generator.config,
            generator.latent_recogniser,
            generator.style_encoder,
        )

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write a checkpoint folder that ``from_pretrained`` reads.

        Args:
            dtype: of the saved weights (torch.float16 halves them, torch.int8 quarters them, see
                ``save_weights``); the model in memory stays as it is.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.config
        if isinstance(self.vae, CompactAutoencoder):
            self.vae.save_pretrained(folder / VAE_FOLDER)
            if dtype is not None:
                save_weights(self.vae, folder / VAE_FOLDER / SAFETENSORS_WEIGHTS_NAME, dtype=dtype)
            # It travels with the checkpoint: where it once came from says nothing, and the hash is of what is
            # loaded again.
            saved_hash = hash_vae(self.vae if dtype is None else load_vae(folder / VAE_FOLDER))
            config = replace(config, vae={"name": VAE_FOLDER, "hash": saved_hash})
        if self.latent_recogniser is not None:
            self.latent_recogniser.save_pretrained(folder / LATENT_RECOGNISER_FOLDER, dtype=dtype)
        if self.style_encoder is not None:
            self.style_encoder.save_pretrained(folder / STYLE_ENCODER_FOLDER, {}, dtype=dtype)
        self.save_unet(folder, config, dtype=dtype)

    def save_unet(self, folder: Path, config: CheckpointConfig, *, dtype: torch.dtype | None = None) -> None:
        """Write the UNet and a config into a folder that is there, without the parts beside them.

        Raises:
            UserError: if a hand has weights of its own, which a checkpoint has no place for.
        """
        if hand_weights_of(self.unet).rows:
            raise UserError("a model with fitted hands can't be saved. Save the hands: Hand.save")
        save_weights(self.unet, folder / WEIGHTS_NAME, dtype=dtype)
        content = json.dumps(config.to_dict(self.unet.config), indent=2, ensure_ascii=False)
        (folder / CONFIG_NAME).write_text(content, encoding="utf-8")
        share_files(folder)

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "HandwritingPipeline":
        """Move to a device; ``dtype`` bfloat16 or float16 computes under autocast, weights stay fp32."""
        self.device, self.dtype = torch.device(device), dtype
        self.unet.to(self.device)
        self.vae.to(self.device)
        if self.latent_recogniser is not None:
            self.latent_recogniser.to(self.device)
        return self

    def add_hands(self, hands: Mapping[str, Hand]) -> None:
        """Know these hands as writers from now on, by their names.

        Raises:
            UserError: if the model can't take one, or knows a writer of its name.
        """
        unet, config = add_hands(self.unet.cpu(), self.config, hands)
        self.unet = unet.eval().requires_grad_(False).to(self.device)
        self.config = config
        self._writer_index = {name: i for i, name in enumerate(config.writers)}

    # Writing
    # --------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def __call__(
        self,
        texts: Sequence[str],
        writers: Sequence[Writer],
        *,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        writer_guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        scheduler: str | None = None,
        redraws: int | None = None,
        variation: float = DEFAULT_VARIATION,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Write one image per text; those on canvases of one width together.

        Args:
            writers: a name, shares of several names (a mixed hand), or None (the mean hand) for each text.
            num_inference_steps: None is 12, or a student's own.
            guidance_scale: weight of the text; None is 3, or 1 for a model without null conditions.
            writer_guidance_scale: weight of the writer; None is the same as ``guidance_scale``.
            guidance_interval: see ``make_denoiser``; None is 0.25 to 0.9 for a model of flow prediction, else
                all.
            scheduler: ``dpmsolver++`` (None), ``unipc``, ``ddim``, ``ddpm`` or ``euler``.
            redraws: how often a word is drawn anew that the model's latent recogniser can't read; the drawing
                that it reads best is kept. None is 2, or 0 for a model without a latent recogniser.
            variation: how far drawings of one hand differ in style and widths, as a multiple of what one
                writer's images do; 0 draws all of them with the hand's own.
            indices: the images' record numbers, which with ``seed`` fix noise and variation; 0, 1, ... by
                default.
            batch_size: most images that are drawn at once, which bounds the memory; None draws all of one
                width at once.
        Returns:
            (N, H, W) uint8 grey.
        Raises:
            ValueError: for texts or writers that the model doesn't know, guidance of a model without null
                conditions, redraws of one without a latent recogniser, steps, scheduler or guidance of a
                student, and latents that are not finite.
        """
        if len(texts) != len(writers):
            raise UserError(f"{len(texts)} texts for {len(writers)} writers")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size {batch_size}: at least 1")
        if not 0 <= variation < float("inf"):
            raise UserError(f"variation {variation}: at least 0")
        texts = [normalise_text(text) for text in texts]
        self.check(texts, writers)
        self.check_sampling(
            guidance_scale,
            writer_guidance_scale,
            redraws,
            scheduler,
            num_steps=num_inference_steps,
            guidance_interval=guidance_interval,
        )
        guidance = self.choose_guidance(guidance_scale, writer_guidance_scale, guidance_interval)
        if redraws is None:
            redraws = 0 if self.latent_recogniser is None else DEFAULT_REDRAWS
        indices = list(range(len(texts)) if indices is None else indices)
        drawn = {"variation": variation, "seed": seed, "indices": indices}
        edges, styles = self.draw_edges(texts, writers, **drawn), self.draw_styles(writers, **drawn)

        def draw(rows: Sequence[int], width: int, attempt: int) -> Tensor:
            """Latents of some of the images, all on canvases of one width."""
            # The first attempt's noise is that of a model without a latent recogniser.
            keys = (attempt,) if attempt else ()
            denoise = self.make_denoiser(
                [texts[row] for row in rows],
                [writers[row] for row in rows],
                guidance.text,
                guidance.writer,
                width,
                guidance.interval,
                edges=None if edges is None else [edges[row] for row in rows],
                styles=None if styles is None else styles[torch.as_tensor(rows)],
            )
            generators = [make_generator("cpu", seed, indices[row], *keys) for row in rows]
            return self._sample(
                denoise,
                width,
                generators,
                scheduler or DEFAULT_SCHEDULER,
                num_inference_steps or DEFAULT_STEPS,
            )

        def read(latents: Tensor, rows: Sequence[int]) -> np.ndarray:
            return self._reading_losses(latents, [texts[row] for row in rows])

        widths = self.canvas_widths(texts, writers, edges)
        images = np.full((len(texts), *self.config.img_size), 255, np.uint8)
        groups: dict[tuple, list[int]] = defaultdict(list)  # of one width, in hands of the same weights
        for row, width in enumerate(widths.tolist()):
            groups[self.weights_key(writers[row]), width].append(row)
        for key in sorted(groups):
            together, width = np.array(groups[key]), key[1]
            for start in range(0, len(together), batch_size or len(together)):
                rows = together[start : start + (batch_size or len(together))]
                latents = draw_legibly(draw, read, rows, width, redraws)
                with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                    images[rows, :, :width] = decode_latents(self.vae, latents)
        return images

    def _sample(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor],
        width: int,
        generators: Sequence[torch.Generator],
        scheduler: str,
        num_inference_steps: int,
    ) -> Tensor:
        """(N, 4, h, width / 8) latents from noise."""
        schedule, student = self.config.schedule, self.config.student
        shape = (self.unet.config.latent_channels, self.config.img_size[0] // DOWNSCALE, width // DOWNSCALE)
        noise = draw_noise(shape, generators, self.device)
        if student is not None:
            latents = student.walk(denoise, noise, schedule.num_train_timesteps)
        else:
            latents = sample_latents(
                denoise, schedule.make_scheduler(scheduler), noise, num_inference_steps, generators
            )
        if not latents.isfinite().all():
            raise UserError(
                f"the latents are not finite: too many or too few steps for --scheduler {scheduler}, too much"
                " guidance, or --mixed_precision fp16 where bf16 or no is needed"
            )
        return latents
