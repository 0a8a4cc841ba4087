"""A hand fitted to a few labelled images of someone's writing: a style vector, an offset, and weights of its
own.

The vector is the mean of the style encoder's vectors of the images, as for any hand from images. The offset
and low-rank weights, which are added to the model's while this hand is drawn, start at zero and are trained:
all weights of the model stay as they are.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from diffusion.autoencoder import hash_vae
from diffusion.cache_folder import encode_training_set
from diffusion.config import CheckpointConfig
from diffusion.dataset import LatentCache
from diffusion.hands import STYLE_SPACE, Hand, add_hands, hand_of_writer
from diffusion.layout import WidthModel, usual_ratio
from diffusion.low_rank import attach, detach
from diffusion.pipeline import HandwritingPipeline
from diffusion.presets import DEFAULT_PRESET, PRESETS
from diffusion.student import check_no_student
from diffusion.styles import StyleReferences, embed_styles
from diffusion.trainer import DiffusionTrainer
from diffusion.training_alignment import align_training
from diffusion.training_settings import NEW_WRITERS_FACTOR, TrainingSettings
from utils.errors import UserError
from utils.output import LOCK_NAME, lock_folder
from utils.sources import TrainingSet, read_image
from utils.text_images import TextImage

HAND_SUFFIX = ".safetensors"
FEWEST_IMAGES, MOST_IMAGES = 5, 300  # of a hand, that fitting is made for
FIT_BATCH = 16
# Steps for each root of the number of images: longer fits made held-out images of a hand less likely again.
STEPS_OF_ROOT, FEWEST_STEPS, MOST_STEPS = 24, 40, 420
RECOGNITION_WEIGHT = 0.1
FIT_SETTINGS = ("max_train_steps", "batch_size", "learning_rate", "seed")  # that flags may change


class HandTrainer(DiffusionTrainer):
    """Trains the offsets of hands that joined a frozen model; no sample loses its text or its hand."""

    def draw_dropped(self, count: int, generator: torch.Generator) -> None:
        """None: each hand is trained as it is used, with the mean of all vectors and the whole offset."""


def write_hands(
    start: HandwritingPipeline,
    words: TrainingSet,
    target: Path,
    given: Mapping[str, object],
    accelerator: Accelerator,
    *,
    latent_cache: Path | None,
    rank: int,
) -> None:
    """Fit the hands of all writers of ``words``, one after the other, and write a file of each.

    Each file is written when its hand is fitted: an interrupted fit leaves those that were finished, and the
    same call goes on behind them.

    Args:
        target: file of the hand, or folder of the hands' files.
        given: the flags ``FIT_SETTINGS``, None where not given.
        latent_cache: folder of encoded images; None keeps them for this fit alone.
        rank: of the weights of each hand's own; 0 for none.
    Raises:
        UserError: if the images are none of the model's, a file can't be written, or the fit fails.
    """
    if accelerator.num_processes > 1:
        raise UserError("--fit_hand: takes one process. Start it with python3 train_diffusion.py.")
    words = choose_images(words, start, accelerator.print)
    paths = name_files(target, sorted({words.records[i].writer for i in words.train_indices()}))
    with ExitStack() as stack:
        for path in paths.values():  # before the work, not after it
            stack.enter_context(lock_folder(path.parent, "--fit_hand", name=f"{LOCK_NAME}-{path.name}"))
        root = latent_cache or Path(stack.enter_context(TemporaryDirectory()))
        vae_hash = hash_vae(start.vae)
        for name, path in paths.items():
            if path.exists():
                Hand.load(path, flag="--fit_hand")
                accelerator.print(f"note        {name!r} is fitted already, and stays as it is: {path}")
                continue
            rows = [i for i, record in enumerate(words.records) if record.writer == name]
            part = pick_images(words, rows)
            cache = encode_training_set(part, start.vae, vae_hash, accelerator, root, is_shared=True)
            settings = make_fit_settings(given, start.config, len(rows), rank)
            trainer = make_hand_trainer(start, part, cache, settings, accelerator, rank=rank)
            hand = fit_hand(trainer)
            hand.save(path)
            accelerator.print(
                f"fitted      {name!r} from {len(trainer.styles.images[name])} images,"
                f" {hand.width_scale:.2f} times as wide as the mean hand, spaces"
                f" {hand.width_scale * hand.space_scale:.2f} times: {path}"
            )
            accelerator.free_memory()  # it holds on to each hand's model and optimiser


def check_model(start: HandwritingPipeline, models_path: Path) -> None:
    """Raise a UserError unless a model takes hands from images, and is no student."""
    check_no_student(
        start.config.student,
        f"--init_from {models_path}",
        "Fit the hand to the model that it was distilled from: the file goes with the student, too.",
    )
    if start.style_encoder is None or STYLE_SPACE not in start.config.extra:
        raise UserError(
            f"--init_from {models_path}: this model knows its writers by name alone, so no hand can be fitted"
            " to it. Take one that was trained with --style_encoder, or leave --fit_hand out to train the"
            " whole model."
        )


def choose_images(words: TrainingSet, start: HandwritingPipeline, warn: Callable[[str], None]) -> TrainingSet:
    """The images of split ``train`` whose texts the model can spell.

    Args:
        warn: takes a line about images that are left out, and hands with very few or many.
    Raises:
        UserError: if none is left, or the images have another height than the model's.
    """
    height, needed = read_image(words.paths[0]).shape[0], start.config.img_size[0]
    if height != needed:
        raise UserError(
            f"{words.flag}: images of {height} pixels of height, but the model of --init_from has {needed}."
            f" Preprocess with --img_size {needed} {start.config.img_size[1]}."
        )
    charset, longest = start.config.charset, start.unet.config.max_length
    train = [i for i, record in enumerate(words.records) if record.split == "train"]
    texts = {i: words.records[i].text for i in train}
    chosen = [i for i in train if len(texts[i]) <= longest and not charset.unknown(texts[i])]
    if len(chosen) < len(train):
        unknown = charset.unknown("".join(texts.values()))
        reasons = [f"characters that the model does not know: {' '.join(unknown[:20])}"] if unknown else []
        if any(len(text) > longest for text in texts.values()):
            reasons.append(f"more than {longest} characters")
        left_out = (
            f"{len(train) - len(chosen)} of {len(train)} images have texts with {'; or '.join(reasons)}"
        )
        if not chosen:
            raise UserError(f"{words.flag}: {left_out}. Take other images, or leave --fit_hand out.")
        warn(f"note        left out: {left_out}")
    for writer, count in sorted(Counter(words.records[i].writer for i in chosen).items()):
        if count < FEWEST_IMAGES:
            warn(f"note        {writer!r} has {count} images; a hand needs {FEWEST_IMAGES}, and 30 do better")
        elif count > MOST_IMAGES:
            warn(
                f"note        {writer!r} has {count} images; with more than {MOST_IMAGES}, training of the"
                " whole model (--init_from without --fit_hand) comes nearer"
            )
    return replace(pick_images(words, chosen), holds_out=False)


def pick_images(words: TrainingSet, rows: Sequence[int]) -> TrainingSet:
    """Some images of a training set."""
    records, paths, shares = (
        tuple(values[i] for i in rows) for values in (words.records, words.paths, words.shares)
    )
    return replace(words, records=records, paths=paths, shares=shares)


def name_files(target: Path, writers: Sequence[str]) -> dict[str, Path]:
    """The file of each writer's hand: ``target`` itself, or in it as a folder.

    Raises:
        UserError: if a file is named for several writers, or is there already.
    """
    if target.suffix == HAND_SUFFIX:
        if target.exists():
            raise UserError(f"--fit_hand {target}: exists already. Remove it, or name another.")
        if len(writers) > 1:
            names = ", ".join(writers[:10]) + (", …" if len(writers) > 10 else "")
            raise UserError(
                f"--fit_hand {target}: one file, but --dataset_path has {len(writers)} writers ({names})."
                f" Name a folder, which gets a file of each: --fit_hand {target.with_suffix('')}"
            )
        paths = {writers[0]: target}
    else:
        stems = {name: re.sub(r"[^\w.-]+", "_", name) for name in writers}
        paths = {name: target / f"{stem}{HAND_SUFFIX}" for name, stem in stems.items()}
    if len(set(paths.values())) < len(paths):
        raise UserError(
            f"--fit_hand {target}: names of two writers make one file's name. Rename one of them."
        )
    return paths


def make_fit_settings(
    given: Mapping[str, object], config: CheckpointConfig, images: int, rank: int
) -> TrainingSettings:
    """The settings of a fit to a number of images; ``given`` are the flags ``FIT_SETTINGS``, None where not
    given.
    """
    recipe = PRESETS.get(str(config.extra.get("preset")), PRESETS[DEFAULT_PRESET])
    steps = given["max_train_steps"]
    if steps is None:
        steps = min(max(round(STEPS_OF_ROOT * images**0.5), FEWEST_STEPS), MOST_STEPS)
    usual = {"batch_size": FIT_BATCH, "learning_rate": recipe.rate / 2 if rank else recipe.rate}
    changes = {name: value for name, value in given.items() if value is not None}
    return TrainingSettings(
        **{**usual, **changes, "max_train_steps": steps},
        schedule_steps=steps,
        lr_warmup_steps=10,
        ema_decay=0.0,
        writer_rate_factor=NEW_WRITERS_FACTOR,
        recognition_weight=RECOGNITION_WEIGHT,
    )


def measure_width_scale(records: Sequence[TextImage], ink: np.ndarray, model: WidthModel) -> float:
    """Widths of a hand's texts as a multiple of the mean hand's: the median of all, as if two more were at 1.

    Args:
        ink: (N, 4) left, top, right, bottom in pixels.
    """
    ratios = [
        float(box[2] - box[0]) / model.expected_width(record.text)
        for record, box in zip(records, ink, strict=True)
    ]
    return round(usual_ratio(ratios), 4)


def measure_hands(
    words: TrainingSet, cache: LatentCache, styles: StyleReferences, config: CheckpointConfig
) -> dict[str, Hand]:
    """The hands of all writers as their images say them, before anything is trained."""
    hands = {}
    for name in sorted(styles.means):
        rows = styles.images[name].tolist()
        scale = 1.0
        if config.width_model is not None:
            records = [words.records[row] for row in rows]
            scale = measure_width_scale(records, cache.ink[rows], config.width_model)
        space = str(config.extra[STYLE_SPACE])
        hands[name] = Hand(style=styles.means[name], width_scale=scale, style_space=space)
    return hands


def make_hand_trainer(
    start: HandwritingPipeline,
    words: TrainingSet,
    cache: LatentCache,
    settings: TrainingSettings,
    accelerator: Accelerator,
    *,
    rank: int = 0,
) -> HandTrainer:
    """A training of the hand of the one writer of ``words``, new to the model whatever its name is.

    Args:
        rank: of the weights of the hand's own that are trained beside its offset; 0 for none.
    """
    styles = embed_styles(start.style_encoder, words, cache.folder)
    # The model's own writers play no part: their names must not be in the way.
    nameless = replace(start.config, writers=tuple(f"row {row}" for row in range(len(start.config.writers))))
    unet, config = add_hands(start.unet, nameless, measure_hands(words, cache, styles, nameless))
    if config.canvas_step is not None:
        config = replace(config, img_size=max(config.img_size, cache.canvas_size))  # of one height
    # Rows that no image calls up have no gradient, and AdamW leaves them as they are.
    unet.requires_grad_(False).writer_embedding.requires_grad_(True)
    if rank:
        attach(unet, rank, settings.seed)
    recogniser = start.latent_recogniser
    if recogniser is None:
        settings = replace(settings, recognition_weight=0.0)
    trainer = HandTrainer(
        accelerator, unet, config, start.vae, words, cache, settings, start.style_encoder, styles
    )
    trainer.unet.eval()
    if recogniser is not None:
        trainer.latent_recogniser = recogniser.to(trainer.device)
        if "alignment" in config.extra:
            accelerator.print(
                "alignment   " + align_training(trainer, is_new=False, new_hands=set(styles.means))
            )
    return trainer


def fit_hand(trainer: HandTrainer) -> Hand:
    """Train the offset and the weights of the one hand of a trainer.

    Raises:
        UserError: if the loss becomes infinite.
    """
    (name,) = trainer.styles.means
    with tqdm(total=trainer.last_step, desc="fit", unit="step") as bar:
        while not trainer.is_finished:
            values = trainer.train_step()
            bar.update()
            bar.set_postfix(loss=f"{float(values['loss']):.4f}")
    low_rank = detach(trainer.bare_unet)
    hand = replace(hand_of_writer(trainer.bare_unet, trainer.config, name), low_rank=low_rank)
    parts = [
        *([] if hand.offset is None else [hand.offset]),
        *(part for pair in low_rank.values() for part in pair),
    ]
    if not all(part.isfinite().all() for part in parts):
        raise UserError(
            f"the hand {name!r} is not finite. Give a lower --learning_rate than"
            f" {trainer.settings.learning_rate:g}."
        )
    return hand
