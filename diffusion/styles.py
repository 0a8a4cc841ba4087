"""Style vectors of a training's images, and the style that a sample is given of them."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from diffusion.config import CheckpointConfig
from diffusion.loading import check_style_encoder
from feature_extractor import StyleEncoder
from unet import UNet
from utils.errors import UserError
from utils.output import write_atomically
from utils.sources import TrainingSet, read_images
from utils.training import make_generator

MOST_REFERENCES = 5  # images that a style vector is the mean of in training
# Of the samples, whose writer's offset counts in training: a hand without one must be written as well.
OFFSET_SHARE = 0.5
EMBED_AT_ONCE = 256  # images
PROJECTION_STEPS, PROJECTION_RATE = 600, 2e-3


class StyleReferences:
    """Style vectors of all text images, from which a sample's style is drawn.

    In training a sample's style is the mean of a few random images of its writer, so that the model learns to
    take a hand from few; then it is the mean of all.

    Args:
        vectors: (N, style_dim) float32 of length 1, one an image.
        writers: (N,) names.
        rows: images to draw from, e.g. those to train on.
    """

    def __init__(self, vectors: np.ndarray, writers: Sequence[str], rows: Sequence[int]) -> None:
        self.vectors = torch.from_numpy(np.asarray(vectors, np.float32))
        images: dict[str, list[int]] = {}
        for row in sorted(set(rows)):
            images.setdefault(writers[row], []).append(row)
        self.images = {writer: torch.tensor(of_writer) for writer, of_writer in images.items()}
        self.means = {writer: self._mean(of_writer) for writer, of_writer in self.images.items()}

    def _mean(self, rows: Tensor) -> Tensor:
        return F.normalize(self.vectors[rows].mean(dim=0), dim=0)

    def spread(self) -> Tensor:
        """(style_dim, style_dim) root of the covariance of single images' vectors about their writers' means;
        zeros where no writer has two images.
        """
        several = [(rows, self.means[name]) for name, rows in self.images.items() if len(rows) > 1]
        if not several:
            return torch.zeros(self.vectors.shape[1], self.vectors.shape[1])
        # A mean of n vectors is nearer to each of them than the hand's true mean is.
        apart = [(self.vectors[rows] - mean) * (len(rows) / (len(rows) - 1)) ** 0.5 for rows, mean in several]
        values, axes = torch.linalg.eigh(torch.cov(torch.cat(apart).T.double(), correction=0))
        return ((axes * values.clamp_min(0).sqrt()) @ axes.T).float()

    def draw(self, writers: Sequence[str], generator: torch.Generator | None = None) -> Tensor:
        """(B, style_dim) vectors of length 1: means of one to five random images of each writer.

        A writer without images gets zeros. Without a generator: the mean of all images.
        """
        zeros = torch.zeros(self.vectors.shape[1])
        if generator is None:
            return torch.stack([self.means.get(writer, zeros) for writer in writers])
        device = generator.device
        counts = torch.randint(1, MOST_REFERENCES + 1, (len(writers),), generator=generator, device=device)
        draws = torch.rand(len(writers), MOST_REFERENCES, generator=generator, device=device).cpu()
        styles = []
        for writer, count, chances in zip(writers, counts.tolist(), draws, strict=True):
            rows = self.images.get(writer)
            if rows is None:
                styles.append(zeros)
            else:
                styles.append(self._mean(rows[(chances[:count] * len(rows)).long().clamp_max(len(rows) - 1)]))
        return torch.stack(styles)


def choose_style_encoder(
    given: StyleEncoder | None, own: StyleEncoder | None, *, is_resumed: bool
) -> StyleEncoder | None:
    """The style encoder of a training: what the model to go on from brings, else what is given.

    Args:
        given: by --style_encoder.
        own: of the run that goes on, or of the model that this one starts from.
        is_resumed: whether a run goes on, whose tensors are what they are.
    Raises:
        UserError: if another one is given than the model was trained with, or a run that had none goes on.
    """
    if given is None or (own is None and not is_resumed):
        return own or given
    if own is None or hash_encoder(own) != hash_encoder(given):
        raise UserError(
            "--style_encoder: not the one that the model to go on from was trained with. Leave it out, or"
            " start a new run with --init_from a model without style vectors."
        )
    return own


def hash_encoder(encoder: StyleEncoder) -> str:
    """A digest of a style encoder's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def embed_styles(encoder: StyleEncoder, words: TrainingSet, cache: Path) -> StyleReferences:
    """The style vectors of all images of a training set, from the file ``cache`` if it is there.

    Raises:
        UserError: if the style encoder was trained on images of another height.
    """
    writers = [record.writer for record in words.records]
    if cache.is_file():
        return StyleReferences(np.load(cache), writers, words.train_indices())
    vectors = []
    for first in tqdm(range(0, len(words.paths), EMBED_AT_ONCE), desc="styles", unit="batch", leave=False):
        vectors.append(encoder.embed(read_images(words.paths[first : first + EMBED_AT_ONCE]))[0])
    content = io.BytesIO()
    np.save(content, np.concatenate(vectors))
    write_atomically(cache, content.getvalue())
    return StyleReferences(np.concatenate(vectors), writers, words.train_indices())


def read_style_encoder(path: Path) -> StyleEncoder:
    """The style encoder that --style_encoder names.

    Raises:
        FileNotFoundError: if there is none; UserError: if it is damaged.
    """
    return StyleEncoder.from_pretrained(path, flag="--style_encoder")


def prepare_styles(
    encoder: StyleEncoder, words: TrainingSet, unet: UNet, config: CheckpointConfig, folder: Path
) -> StyleReferences:
    """The style vectors of a training, whose means the UNet is given; writers without images keep theirs.

    Args:
        folder: of the images' latents, beside which their vectors are kept.
    Raises:
        UserError: for a model without null conditions, and an encoder of other sizes than the model's.
    """
    if not unet.config.has_null_condition:
        raise UserError("--style_encoder: not with --preset wordstylist, which has no null writer")
    check_style_encoder(encoder, config, unet.config, "--style_encoder")
    styles = embed_styles(encoder, words, folder / f"styles-{hash_encoder(encoder)}.npy")
    for row, name in enumerate(config.writers):
        if name in styles.means:
            unet.writer_styles[row] = styles.means[name]
    unet.style_spread.copy_(styles.spread())
    return styles


def teach_projection(unet: UNet, styles: StyleReferences, known: Sequence[str], *, seed: int) -> float:
    """Teach the projection of style vectors the embeddings that the rows of known writers had, and leave to
    the rows what it can't say: a model of rows alone goes on as a model that takes hands from images.

    Args:
        known: names of the first rows, of which those with images teach; the others keep their hands.
    Returns:
        Share of the variance of the rows that the vectors say, at most 1.
    """
    rows = [i for i, name in enumerate(known) if name in styles.means]
    if not rows:
        return 0.0
    projection, mean = unet.style_projection, unet.style_projection.out.bias.detach().clone()
    targets = unet.writer_embedding.weight[rows].detach() + mean
    names = [known[row] for row in rows]
    generator = make_generator("cpu", seed, 0x57)
    optimizer = torch.optim.AdamW(projection.parameters(), lr=PROJECTION_RATE, weight_decay=0.0)
    with torch.enable_grad():
        for step in range(PROJECTION_STEPS):
            optimizer.param_groups[0]["lr"] = PROJECTION_RATE * (1 - step / PROJECTION_STEPS)
            error = F.mse_loss(projection(styles.draw(names, generator)), targets)
            error.backward()
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        said = projection(unet.writer_styles[: len(known)])
        left = unet.writer_embedding.weight[: len(known)] + mean - said
        unet.writer_embedding.weight[: len(known)] = left
    return 1.0 - float(left[rows].var() / targets.var(dim=0).mean())
