"""What a training starts with: a new UNet for a data set, or one that grows out of a trained model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from model_card import ModelCard
from pipeline import HandwritingPipeline
from unet import UNet, grow_unet, make_config
from utils.charset import Charset
from utils.conditions import library_versions
from utils.diffusion import NoiseSchedule
from utils.layout import CANVAS_STEP, fit_width_model


@dataclass(frozen=True)
class FreshModel:
    """What a new model's sizes and names are taken from.

    Attributes:
        texts, writers, ink: of the training records; ink (N, 4) in pixels.
        img_size: (height, width), pixels.
        max_length: longest text, or None: the longest there is.
        vae: name and hash of the VAE.
        extra: further entries of ``config.json``.
    """

    texts: Sequence[str]
    writers: Sequence[str]
    ink: np.ndarray
    img_size: tuple[int, int]
    max_length: int | None
    vae: dict[str, str]
    extra: dict[str, object]

    def build(self, preset: str, prediction_type: str, **changes) -> tuple[UNet, ModelCard]:
        """A UNet of a preset for this data; ``changes`` override single fields of ``UNetConfig``."""
        charset, names = Charset.from_texts(self.texts), tuple(sorted(set(self.writers)))
        config = make_config(preset, num_writers=len(names), vocabulary_size=charset.vocabulary_size,
                             max_length=self._max_length(), **changes)  # fmt: skip
        width_model = fit_width_model(self.texts, self.writers, self.ink, self.img_size[1])
        # A layout says how wide a word will be; a centred word has its place from the whole width.
        canvas_step = CANVAS_STEP if config.text_layout and not width_model.is_centered else None
        card = ModelCard(charset, names, NoiseSchedule(prediction_type), self.img_size, width_model, self.vae, canvas_step,
                         {"preset": preset, **self.extra, "library_versions": library_versions()})  # fmt: skip
        return UNet(config), card

    def grow(self, start: HandwritingPipeline) -> tuple[UNet, ModelCard]:
        """``start``'s UNet with rows for this data's new writers and characters.

        Raises:
            ValueError: if ``start`` has another VAE, or images of another height (or width, where all canvases have it); its
                weights would not fit.
        """
        old = start.card
        if old.vae["hash"] != self.vae["hash"]:
            raise ValueError(f"--vae {self.vae['name']}: not the VAE of --init_from ({old.vae['name']}), whose weights fit no "
                             "other latents. Leave --vae out.")  # fmt: skip
        if old.img_size != self.img_size and (old.canvas_step is None or old.img_size[0] != self.img_size[0]):
            raise ValueError(f"--init_from: its images have {old.img_size[0]}x{old.img_size[1]} pixels, those of "
                             f"--dataset_path {self.img_size[0]}x{self.img_size[1]}. Preprocess with --img_size "
                             f"{old.img_size[0]} {old.img_size[1]}.")  # fmt: skip
        new = sorted(set().union(*self.texts) - set(old.charset.characters))
        charset = replace(old.charset, characters=(*old.charset.characters, *new))
        names = (*old.writers, *sorted(set(self.writers) - set(old.writers)))
        unet = grow_unet(start.unet, num_writers=len(names), vocabulary_size=charset.vocabulary_size,
                         max_length=self._max_length())  # fmt: skip
        width_model = fit_width_model(self.texts, self.writers, self.ink, self.img_size[1], prior=old.width_model)
        history = {"init_from": {key: old.extra.get(key) for key in ("dataset", "step", "preset")}}
        extra = {**old.extra, **self.extra, **history, "library_versions": library_versions()}
        img_size = max(old.img_size, self.img_size)  # of one height
        return unet, replace(old, charset=charset, writers=names, img_size=img_size, width_model=width_model, extra=extra)

    def _max_length(self) -> int:
        longest = max(len(text) for text in self.texts)
        if self.max_length is not None and self.max_length < longest:
            text = max(self.texts, key=len)
            raise ValueError(f"--max_length {self.max_length}: {text!r} has {longest} characters. Preprocess with --max_length "
                             f"{self.max_length}, or give at least {longest}.")  # fmt: skip
        return self.max_length or longest
