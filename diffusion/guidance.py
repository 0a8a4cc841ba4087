"""From texts and writers to a guided denoiser: what the model knows, where characters go, guidance."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusion.autoencoder import DOWNSCALE
from diffusion.config import CheckpointConfig
from diffusion.guided_prediction import Guidance, GuidedPrediction
from diffusion.latent_recogniser import LatentRecogniser
from diffusion.layout import layout_columns, pad_edges
from diffusion.low_rank import hand_weights_of
from diffusion.noise_schedule import DEFAULT_SCHEDULER, FULL_INTERVAL
from diffusion.variation import draw_edges, draw_styles
from unet import UNet
from utils.charset import order_along_line
from utils.errors import UserError

DEFAULT_GUIDANCE = 3.0
Writer = str | Mapping[str, float] | None  # a name, shares of several, or the mean writer


def _check_shares(shares: Mapping[str, float]) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:  # nan, too
            raise UserError(f"a mix: the share of writer {name!r} is {share}, not 0 to 1")
    if abs(sum(shares.values()) - 1) > 1e-3:
        raise UserError(f"a mix: the shares must sum to 1, not {sum(shares.values()):.3f}")


class GuidedModel:
    """A UNet with the names that it knows; texts and writers become its conditions.

    Attributes:
        latent_recogniser: says which words came out illegible; None for a model that was trained without.
        device, dtype: of the computation.
    """

    def __init__(
        self, unet: UNet, config: CheckpointConfig, latent_recogniser: LatentRecogniser | None = None
    ) -> None:
        self.unet = unet.eval().requires_grad_(False)
        self.config = config
        self.latent_recogniser = latent_recogniser
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._writer_index = {name: i for i, name in enumerate(config.writers)}

    def check(self, texts: Sequence[str], writers: Sequence[Writer]) -> None:
        """Check that the checkpoint knows every character and writer, and that no text is too long.

        Raises:
            UserError: names the first that it does not know, and what it knows.
        """
        self.config.charset.encode(list(dict.fromkeys(texts)), self.unet.config.max_length)
        if "" in texts and not self.unet.config.has_null_condition:
            raise UserError("an empty text: this model was trained without null conditions")
        for writer in writers:
            for name in [writer] if isinstance(writer, str) else (writer or {}):
                if name not in self._writer_index:
                    more = ", …" if len(self.config.writers) > 40 else ""
                    known = ", ".join(self.config.writers[:40]) + more
                    raise UserError(
                        f"writer {name!r} is not in this checkpoint. It knows {len(self.config.writers)}:"
                        f" {known}"
                    )
            if writer is None and not self.unet.config.has_null_condition:
                raise UserError("no writer: this model was trained without null conditions. Name one.")
            if isinstance(writer, Mapping):
                _check_shares(writer)

    def check_sampling(
        self,
        guidance_scale: float | None = None,
        writer_guidance_scale: float | None = None,
        redraws: int | None = None,
        scheduler: str | None = None,
        *,
        num_steps: int | None = None,
        guidance_interval: tuple[float, float] | None = None,
    ) -> None:
        """Check that the model can be sampled with these settings; see ``__call__``.

        Raises:
            UserError: for guidance of a model without null conditions, redraws of one without a latent
                recogniser, a scheduler that doesn't fit what the model predicts, and anything of this but
                redraws where a student's training has fixed it.
        """
        if self.config.student is not None:
            self.config.student.check_sampling(
                {
                    "num_steps": num_steps,
                    "scheduler": scheduler,
                    "guidance_scale": guidance_scale,
                    "writer_guidance_scale": writer_guidance_scale,
                    "guidance_interval": guidance_interval,
                }
            )
        self.config.schedule.make_scheduler(scheduler or DEFAULT_SCHEDULER)
        if redraws and self.latent_recogniser is None:
            raise UserError(
                f"--redraws {redraws}: this model has no latent recogniser to say which words are illegible."
                " Leave it at 0, or name a --recogniser and --best_of."
            )
        for flag, scale in (
            ("guidance_scale", guidance_scale),
            ("writer_guidance_scale", writer_guidance_scale),
        ):
            if scale not in (None, 1) and not self.unet.config.has_null_condition:
                raise UserError(
                    f"--{flag} {scale}: this model was trained without null conditions, so guidance can't"
                    " work. Leave it at 1."
                )

    def choose_guidance(
        self,
        guidance_scale: float | None = None,
        writer_guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
    ) -> Guidance:
        """The guidance of a drawing; None is the model's own default, which for a student is none: it has
        learnt its teacher's.
        """
        if guidance_scale is None:
            is_guided = self.unet.config.has_null_condition and self.config.student is None
            guidance_scale = DEFAULT_GUIDANCE if is_guided else 1.0
        if writer_guidance_scale is None:
            writer_guidance_scale = guidance_scale
        if guidance_interval is None:
            guidance_interval = self.config.schedule.guidance_interval
        return Guidance(text=guidance_scale, writer=writer_guidance_scale, interval=tuple(guidance_interval))

    def draw_edges(
        self,
        texts: Sequence[str],
        writers: Sequence[Writer],
        *,
        variation: float = 0.0,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> list[np.ndarray] | None:
        """(n + 1,) borders in pixels of the characters of each text's drawing; None without a width model.

        Args:
            variation: see ``HandwritingPipeline.__call__``; 0 is the expected places.
            indices: the images' record numbers, which with ``seed`` fix the draw; 0, 1, ... by default.
        """
        if self.config.width_model is None:
            return None
        return draw_edges(
            self.config.width_model,
            texts,
            [{writer: 1.0} if isinstance(writer, str) else writer for writer in writers],
            variation=variation,
            seed=seed,
            indices=range(len(texts)) if indices is None else indices,
        )

    def make_layout(self, edges: Sequence[np.ndarray], width: int, length: int) -> Tensor | None:
        """(B, 2, length, width / 8) layouts of texts with these borders on canvases of ``width`` pixels; None
        for a model without text layout.
        """
        if not self.unet.config.text_layout:
            return None
        padded = np.stack([pad_edges(borders, length) for borders in edges])
        return layout_columns(torch.from_numpy(padded).to(self.device), width // DOWNSCALE)

    def canvas_widths(
        self,
        texts: Sequence[str],
        writers: Sequence[Writer],
        edges: Sequence[np.ndarray] | None = None,
        *,
        variation: float = 0.0,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> np.ndarray:
        """(N,) widths of the canvases that words are written on, pixels. What is right of them stays white.

        Words on canvases of one width are written together: batches of one width are the fastest.

        Args:
            edges: of their drawings; by default as ``draw_edges`` gives them for the other arguments.
        """
        if self.config.canvas_step is None:
            return np.full(len(texts), self.config.img_size[1])
        if edges is None:
            edges = self.draw_edges(texts, writers, variation=variation, seed=seed, indices=indices)
        rights = [borders.max() if text else np.inf for text, borders in zip(texts, edges, strict=True)]
        return self.config.canvas_widths(np.array(rights))

    def draw_styles(
        self,
        writers: Sequence[Writer],
        *,
        variation: float = 0.0,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> Tensor | None:
        """(B, style_dim) style vectors of drawings in these hands; None for a model without style vectors.

        Args:
            variation, indices: as for ``draw_edges``; 0 is the hands' own vectors.
        """
        if self.unet.config.style_dim is None:
            return None
        rows, shares = self._writer_rows(writers)
        means = F.normalize((self.unet.writer_styles[rows] * shares[..., None]).sum(dim=1), dim=-1)
        indices = range(len(writers)) if indices is None else indices
        return draw_styles(self.unet, means, variation=variation, seed=seed, indices=indices)

    def _writer_rows(self, writers: Sequence[Writer]) -> tuple[Tensor, Tensor]:
        """(B, M) rows and (B, M) shares; unused places have share 0."""
        mixes = []
        for writer in writers:
            mix = {writer: 1.0} if isinstance(writer, str) else writer or {}
            mixes.append(list(mix.items()))
        most = max(1, *(len(mix) for mix in mixes))
        rows = torch.zeros(len(writers), most, dtype=torch.int64)
        shares = torch.zeros(len(writers), most)
        for i, mix in enumerate(mixes):
            if not mix:
                rows[i, 0], shares[i, 0] = self.unet.config.null_writer_id, 1.0
            for j, (name, share) in enumerate(mix):
                rows[i, j], shares[i, j] = self._writer_index[name], share
        return rows.to(self.device), shares.to(self.device)

    def make_denoiser(
        self,
        texts: Sequence[str],
        writers: Sequence[Writer],
        guidance_scale: float,
        writer_guidance_scale: float,
        width: int,
        guidance_interval: tuple[float, float] = FULL_INTERVAL,
        *,
        edges: Sequence[np.ndarray] | None = None,
        styles: Tensor | None = None,
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """A denoiser with guidance on text and on writer; see ``GuidedPrediction``.

        Args:
            width: of the canvas, pixels.
            guidance_interval: see ``Guidance``.
            edges: of the texts' characters in their drawings; the expected ones by default.
            styles: (B, style_dim) of the drawings; the hands' own by default.
        Raises:
            UserError: if guidance is asked of a model without null conditions.
        """
        length = self.unet.config.text_length(max(map(len, texts)))
        edges = self.draw_edges(texts, writers) if edges is None else edges
        layout = self.make_layout(edges, width, length)
        styles = self.draw_styles(writers) if styles is None else styles
        input_ids = self.config.charset.encode(texts, length).to(self.device)
        rows, shares = self._writer_rows(writers)
        guidance = Guidance(
            text=guidance_scale, writer=writer_guidance_scale, interval=tuple(guidance_interval)
        )
        if not guidance.is_off:
            self.check_sampling(guidance_scale, writer_guidance_scale)
        keys = {self.weights_key(writer) for writer in writers}
        if len(keys) > 1:
            raise UserError("hands with weights of their own are drawn in batches of their own")
        return GuidedPrediction(
            partial(self._predict, keys.pop()),
            (input_ids, rows, layout, shares, styles),
            guidance,
            self.unet.config,
            self.config.schedule.num_train_timesteps,
        )

    def weights_key(self, writer: Writer) -> tuple[tuple[int, float], ...]:
        """What the weights of a writer's own are known by; () for those who have none."""
        shares = {writer: 1.0} if isinstance(writer, str) else writer or {}
        rows = {self._writer_index[name]: share for name, share in shares.items()}
        return hand_weights_of(self.unet).key(rows)

    def _predict(
        self,
        weights_key: tuple[tuple[int, float], ...],
        latents: Tensor,
        timestep: Tensor,
        *conditions: Tensor | None,
    ) -> Tensor:
        hand_weights_of(self.unet).apply(self.unet, weights_key)
        timesteps = torch.full((len(latents),), float(timestep), device=self.device)  # no copy to wait for
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.unet(latents, timesteps, *conditions).float()

    def _reading_losses(self, latents: Tensor, texts: Sequence[str]) -> np.ndarray:
        """(N,) nats a character that the latent recogniser lacks to read the texts; 0 where there is nothing
        to read.
        """
        in_order = [order_along_line(text) for text in texts]
        input_ids = self.config.charset.encode(in_order, self.unet.config.max_length).to(self.device)
        lengths = torch.tensor([len(text) for text in texts])
        return (
            (self.latent_recogniser.loss(latents, input_ids, lengths) * (lengths > 0).to(self.device))
            .cpu()
            .numpy()
        )
