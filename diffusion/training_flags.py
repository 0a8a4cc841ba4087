"""The flags of train_diffusion.py."""

import argparse
import math
from pathlib import Path

from diffusion.distillation_flags import add_distillation_flags, check_distillation_flags
from diffusion.low_rank import DEFAULT_RANK, HIGHEST_RANK
from diffusion.noise_schedule import PREDICTION_TYPES
from diffusion.presets import DEFAULT_PRESET, PRESETS
from diffusion.training_settings import DEFAULT_EPOCHS, NEW_WRITERS_FACTOR, TrainingSettings
from utils.cli import positive_int

DEFAULT_VAE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
MODEL_FLAGS = ("preset", "model_channels", "num_heads", "text_layout", "max_length", "prediction_type")

_FIT_FLAGS = (
    "fit_hand",
    "hand_rank",
    "init_from",
    "dataset_path",
    "vae",
    "latent_cache",
    "max_train_steps",
    "batch_size",
    "learning_rate",
    "mixed_precision",
    "seed",
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags, in groups."""
    _add_data_flags(parser.add_argument_group("data and output"))
    _add_model_flags(parser.add_argument_group("model"))
    group = parser.add_argument_group(
        "training", "a resumed run keeps its settings unless a flag says otherwise"
    )
    _add_course_flags(group)
    _add_loss_flags(group)
    add_distillation_flags(parser)
    _add_interval_flags(parser.add_argument_group("on the way"))


def _add_data_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--dataset", default="words", help="label of the data; names the run's folder")
    add(
        "--dataset_path",
        "--iam_path",
        nargs="+",
        required=True,
        metavar="FOLDER[:SHARE]",
        help="folders of text images; FOLDER:2 counts twice in an epoch, FOLDER:0.5 half of it",
    )
    add("--save_path", type=Path, help="folder of the run (default: runs/<dataset>)")
    add(
        "--vae",
        help="Hugging Face id or folder of a Stable Diffusion VAE, or a run of"
        f" diffusion/train_autoencoder.py (default: {DEFAULT_VAE}, or that of --init_from)",
    )
    add(
        "--latent_cache",
        type=Path,
        help="folder of encoded images, to share them between runs (default:"
        " latent_cache in the run's folder)",
    )
    add(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="STEP",
        help="continuation of the run in --save_path, from its newest checkpoint, or from that of STEP",
    )
    add(
        "--init_from",
        type=Path,
        help="checkpoint or run to start from; writers and characters that it knows"
        " keep their embeddings; a new writer starts as the known one that predicts the images best, a new"
        " character from the mean",
    )
    add(
        "--fit_hand",
        type=Path,
        metavar="FILE",
        help="file (.safetensors) of a hand, for --writer of inference.py: it is fitted to 5 to 300 images of"
        " one writer, and the model of --init_from stays as it is; for images of several writers, a folder"
        " that gets a file of each",
    )
    add(
        "--hand_rank",
        type=int,
        metavar="RANK",
        help="with --fit_hand: rank of the hand's own weights, which are added to the model's while it is"
        f" written in, about 70 KB each; 0: none, for a file of a few KB (default: {DEFAULT_RANK})",
    )


def _add_model_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--preset", choices=tuple(PRESETS), help=f"size and conditioning (default: {DEFAULT_PRESET})")
    add("--model_channels", type=positive_int, help="channels, a multiple of 32 (default: the preset's)")
    add("--num_heads", type=positive_int, help="attention heads (default: the preset's)")
    add(
        "--text_layout",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="layout of the text over the image's columns (default: the preset's)",
    )
    add(
        "--style_encoder",
        type=Path,
        metavar="RUN",
        help="run of evaluation/train_style_encoder.py whose vectors say whose hand it is, with a row of each"
        " writer as an offset; it travels with the checkpoint (default: writers are rows alone)",
    )
    add("--max_length", type=positive_int, help="longest text in characters (default: the longest there is)")
    add(
        "--prediction_type",
        choices=PREDICTION_TYPES,
        help="what the UNet predicts (default: flow_prediction; epsilon for wordstylist)",
    )


def _add_course_flags(group: argparse._ArgumentGroup) -> None:
    add, default = group.add_argument, TrainingSettings
    add("--epochs", type=positive_int, help=f"passes over the text images (default: {DEFAULT_EPOCHS})")
    add("--max_train_steps", type=positive_int, help="steps in all, instead of --epochs")
    add(
        "--schedule_steps",
        type=positive_int,
        help="step at which the learning rate has come down; stopping"
        " earlier does not shorten it (default: all steps)",
    )
    add(
        "--lr_schedule",
        choices=("cosine", "constant"),
        help=f"course of the learning rate after its warm-up (default: {default.lr_schedule})",
    )
    add(
        "--lr_warmup_steps",
        type=int,
        help=f"steps in which the learning rate rises from 0 (default: {default.lr_warmup_steps})",
    )
    add(
        "--learning_rate",
        type=float,
        help="peak learning rate of AdamW (default: the preset's, "
        + ", ".join(f"{preset.rate:g} for {name}" for name, preset in PRESETS.items())
        + ")",
    )
    add(
        "--writer_rate_factor",
        type=float,
        metavar="FACTOR",
        help="learning rate of the writers' embeddings,"
        " as a multiple of --learning_rate; the higher, the sooner new writers differ from the mean writer"
        f" (default: {NEW_WRITERS_FACTOR:g} with --init_from, else 1)",
    )
    add("--weight_decay", type=float, help=f"weight decay of AdamW (default: {default.weight_decay})")
    add(
        "--max_grad_norm",
        type=float,
        help=f"norm to which gradients are clipped (default: {default.max_grad_norm})",
    )
    add(
        "--batch_size",
        type=positive_int,
        help="text images a step on each process (default: the preset's, "
        + ", ".join(f"{preset.batch} for {name}" for name, preset in PRESETS.items())
        + ")",
    )


def _add_loss_flags(group: argparse._ArgumentGroup) -> None:
    add, default = group.add_argument, TrainingSettings
    add(
        "--ema_decay",
        type=float,
        help="decay of the averaged weights, which are what is sampled from; 0"
        f" turns averaging off (default: {default.ema_decay})",
    )
    add(
        "--text_dropout",
        type=float,
        help=f"chance that the text of an image is replaced by null (default: {default.text_dropout})",
    )
    add(
        "--writer_dropout",
        type=float,
        help=f"chance that the writer of an image is replaced by null (default: {default.writer_dropout})",
    )
    add(
        "--recognition_weight",
        type=float,
        help="weight of a second loss: what a small recogniser of"
        " latents, trained on the same images first, can't read in the model's predictions; 0 does"
        " without (default: 0.5 for base and small, else 0)",
    )
    add(
        "--recogniser_steps",
        type=positive_int,
        help="training steps of this recogniser; a fifth of them if"
        f" one comes with --init_from (default: {default.recogniser_steps})",
    )
    add(
        "--alignment",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="forced alignment of the text images by this recogniser: training on where each character"
        " stands, and on segments of lines of one to four words (default: off)",
    )
    add(
        "--mixed_precision",
        choices=("no", "bf16", "fp16"),
        help="precision of the computation (default: bf16 where it is native, else no)",
    )
    add(
        "--compile",
        action="store_true",
        help="torch.compile of the UNet: faster on a GPU after a minute, useless on a CPU",
    )
    add("--seed", type=int, help=f"random seed of weights, order and noise (default: {default.seed})")


def _add_interval_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--save_every", type=positive_int, default=1000, help="steps between checkpoints")
    add("--keep_checkpoints", type=positive_int, default=3, help="number of newest checkpoints that are kept")
    add("--validate_every", type=positive_int, help="steps between validations (default: --save_every)")
    add("--preview_every", type=positive_int, help="steps between preview sheets (default: --save_every)")
    add("--log_every", type=positive_int, default=50, help="steps between rows of log.csv")
    add("--log_with", choices=("tensorboard", "wandb"), help="tracker that gets the log too")


def check_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message if a number is out of the range in which it means something."""
    for name in ("text_dropout", "writer_dropout", "ema_decay"):
        if not 0 <= (getattr(args, name) or 0) < 1:
            parser.error(f"--{name} {getattr(args, name)}: must be at least 0 and under 1")
    for name in ("recognition_weight", "weight_decay", "lr_warmup_steps"):
        if not 0 <= (getattr(args, name) or 0) < math.inf:
            parser.error(f"--{name} {getattr(args, name)}: must be at least 0")
    for name in ("learning_rate", "max_grad_norm", "writer_rate_factor"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < math.inf:
            parser.error(f"--{name} {getattr(args, name)}: must be above 0")
    for name in MODEL_FLAGS:
        if name != "max_length" and args.init_from and getattr(args, name) is not None:
            parser.error(f"--{name} {getattr(args, name)}: --init_from brings its own; leave one of them out")
    check_distillation_flags(parser, args, taken=MODEL_FLAGS)
    if args.hand_rank is not None and not (args.fit_hand and 0 <= args.hand_rank <= HIGHEST_RANK):
        parser.error(f"--hand_rank {args.hand_rank}: goes with --fit_hand, and is 0 to {HIGHEST_RANK}")
    if args.fit_hand:
        _check_fit_flags(parser, args)


def _check_fit_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.init_from is None:
        parser.error(f"--fit_hand {args.fit_hand}: needs --init_from, the model that the hand is fitted to")
    for name, value in vars(args).items():
        if name not in _FIT_FLAGS and value != parser.get_default(name):
            parser.error(
                f"--{name} {value}: --fit_hand trains one hand in a fixed course; leave one of them out"
            )
