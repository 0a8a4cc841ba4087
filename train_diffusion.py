"""Train the handwriting generator on one or more folders of text images.

  python3 train_diffusion.py --dataset iam --iam_path data/iam --epochs 1000
  python3 train_diffusion.py --dataset_path data/me --init_from runs/iam --max_train_steps 2000
  python3 train_diffusion.py --dataset_path data/me --init_from runs/iam --fit_hand me.safetensors
  python3 train_diffusion.py --dataset_path data/iam --distil_from runs/iam --save_path runs/student
  python3 train_diffusion.py --save_path runs/iam --iam_path data/iam --resume
  accelerate launch --num_processes 4 train_diffusion.py --dataset iam --iam_path data/iam

A run's folder holds step_* checkpoints (each is all that inference.py needs), log.csv, previews/ and
latent_cache/ (the encoded images: remove it any time, they are encoded again). SIGTERM and Ctrl-C save and
stop; --resume goes on as if nothing had happened.
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.tracking import get_available_trackers
from torch import nn

from diffusion.autoencoder import VAE_FOLDER, hash_vae, load_vae
from diffusion.cache_folder import RUN_CACHE_FOLDER, encode_training_set
from diffusion.config import CheckpointConfig
from diffusion.distillation import DistillationTrainer, make_distillation_trainer
from diffusion.distillation_settings import DistillationSettings
from diffusion.fresh_model import FreshModel, resume_model
from diffusion.hand_fitting import FIT_SETTINGS, check_model, write_hands
from diffusion.hands import STYLE_SPACE
from diffusion.latent_recogniser import LATENT_RECOGNISER_FOLDER, find_latent_recogniser
from diffusion.loading import find_teacher, load_style_encoder, read_config
from diffusion.low_rank import DEFAULT_RANK
from diffusion.new_writers import start_from_nearest
from diffusion.noise_schedule import FLOW_PREDICTION
from diffusion.pipeline import HandwritingPipeline
from diffusion.presets import DEFAULT_PRESET, PRESETS
from diffusion.recogniser_training import prepare_latent_recogniser
from diffusion.student import check_no_student
from diffusion.styles import (
    choose_style_encoder,
    hash_encoder,
    prepare_styles,
    read_style_encoder,
    teach_projection,
)
from diffusion.teacher import choose_known, is_student, open_lesson
from diffusion.trainer import LOG_COLUMNS, DiffusionTrainer
from diffusion.training_alignment import align_training
from diffusion.training_flags import DEFAULT_VAE, MODEL_FLAGS, add_flags, check_flags
from diffusion.training_settings import TrainingSettings, make_settings, read_training_settings
from unet import UNet
from utils.cli import HelpFormatter, run
from utils.device import choose_device, choose_precision, compile_in_place
from utils.errors import UserError
from utils.sources import parse_sources, read_sources
from utils.training_loop import Intervals, claim_run, run_training


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add_flags(parser)
    args = parser.parse_args(argv)
    check_flags(parser, args)
    args.save_path = args.save_path or Path("runs") / args.dataset
    return args


def make_accelerator(mixed_precision: str | None, log_with: str | None, save_path: Path) -> Accelerator:
    """The accelerator, with bf16 where it is native unless a flag says otherwise.

    Raises:
        UserError: for fp16 on a CPU, or a tracker that is not installed.
    """
    device = choose_device(mps=True)
    precision = choose_precision(mixed_precision, device)
    if precision == "fp16" and device.type == "cpu":
        raise UserError("--mixed_precision fp16: needs a GPU. On a CPU use bf16 or no.")
    # accelerate would go on without a word.
    if log_with and log_with not in map(str, get_available_trackers()):
        raise UserError(
            f"--log_with {log_with}: not installed. Run `pip install {log_with}`, or leave the flag out."
        )
    # Processes wait for the one that encodes the images: with half a million of them much longer than the
    # usual ten minutes.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    return Accelerator(
        mixed_precision=precision, log_with=log_with, project_dir=save_path, kwargs_handlers=[patience]
    )


def choose_vae(
    vae: str | None, checkpoint: Path | None, start: HandwritingPipeline | None
) -> tuple[nn.Module, str]:
    """The VAE and its name: what --vae says, else that of the run resumed or started from, else Stable
    Diffusion's.
    """
    if vae is None and start is not None:
        return start.vae, start.config.vae["name"]
    if vae is None and checkpoint is not None:
        name = read_config(checkpoint, flag="--resume")[0].vae["name"]
        return load_vae(checkpoint if (checkpoint / VAE_FOLDER).is_dir() else name), name
    name = vae or DEFAULT_VAE
    if Path(name).expanduser().is_dir():  # a checkpoint is read from other working folders too
        name = str(Path(name).expanduser().resolve())
    return load_vae(name), name


def make_model(
    given: dict, checkpoint: Path | None, start: HandwritingPipeline | None, fresh: FreshModel
) -> tuple[UNet, CheckpointConfig]:
    """The UNet and its config: of the checkpoint to resume, grown from --init_from, or new.

    Args:
        given: the flags of the group "model" by name, None where not given.
    """
    if checkpoint:
        return resume_model(checkpoint, given, fresh)
    if start:
        return fresh.grow(start.unet, start.config)
    preset = given["preset"] or DEFAULT_PRESET
    sizes = ("model_channels", "num_heads", "text_layout")
    changes = {name: given[name] for name in sizes if given[name] is not None}
    usual = "epsilon" if PRESETS[preset].is_published else FLOW_PREDICTION
    return fresh.build(preset, given["prediction_type"] or usual, **changes)


def open_start(args: argparse.Namespace) -> HandwritingPipeline:
    """The model of --init_from; of a student that has its teacher with it, the teacher."""
    folder = find_teacher(args.init_from, flag="--init_from")
    return HandwritingPipeline.from_pretrained(folder, vae=args.vae, flag="--init_from")


def make_trainer(
    args: argparse.Namespace, accelerator: Accelerator, checkpoint: Path | None
) -> DiffusionTrainer:
    """Read the data, make the model, and go to where the run stopped."""
    words = read_sources(parse_sources(args.dataset_path))
    start = None
    if args.init_from and not checkpoint:
        start = open_start(args)
        way_out = "Train the model that it was distilled from, and distil that again with --distil_from."
        check_no_student(start.config.student, f"--init_from {args.init_from}", way_out)
    vae, vae_name = choose_vae(args.vae, checkpoint, start)
    vae_info = {"name": vae_name, "hash": hash_vae(vae)}
    cache_root = args.latent_cache or args.save_path / RUN_CACHE_FOLDER
    is_shared = args.latent_cache is not None
    cache = encode_training_set(
        words, vae, vae_info["hash"], accelerator, root=cache_root, is_shared=is_shared
    )

    given_encoder = read_style_encoder(args.style_encoder) if args.style_encoder else None
    torch.manual_seed(TrainingSettings.seed if args.seed is None else args.seed)
    chosen = words.train_indices()
    fresh = FreshModel(
        texts=[words.records[i].text for i in chosen],
        writers=[words.records[i].writer for i in chosen],
        ink=cache.ink[chosen],
        img_size=cache.canvas_size,
        max_length=args.max_length,
        vae=vae_info,
        latent_channels=cache.channels,
        extra={"dataset": args.dataset, "words": len(set(chosen))},
        style_dim=given_encoder.config.style_dim if given_encoder else None,
    )
    unet, config = make_model({name: getattr(args, name) for name in MODEL_FLAGS}, checkpoint, start, fresh)

    given = {field.name: getattr(args, field.name) for field in fields(TrainingSettings)}
    resumed = read_training_settings(checkpoint) if checkpoint else None
    ranks = accelerator.num_processes
    settings = make_settings(given, args.epochs, config, len(chosen), ranks, resumed)
    if settings.alignment and not unet.config.text_layout:
        raise UserError("--alignment: this model has no text layout to use it in. Leave --alignment out.")
    own = start.style_encoder if start else None
    if checkpoint:
        own = load_style_encoder(checkpoint, config, unet.config, flag="--resume")
    encoder = choose_style_encoder(given_encoder, own, is_resumed=checkpoint is not None)
    styles = prepare_styles(encoder, words, unet, config, cache.folder) if encoder else None
    if encoder and STYLE_SPACE not in config.extra:
        config = replace(config, extra={**config.extra, STYLE_SPACE: hash_encoder(encoder)})
    if styles and start and start.unet.config.style_dim is None:
        share = teach_projection(unet, styles, start.config.writers, seed=settings.seed)
        accelerator.print(f"styles      vectors say {100 * share:.0f} % of what the writers' rows said")
    trainer = DiffusionTrainer(accelerator, unet, config, vae, words, cache, settings, encoder, styles)
    if checkpoint:
        trainer.restore(checkpoint)
        describe_resume(trainer, checkpoint)
    elif start and encoder is None:  # a new writer's vector says more than the nearest row
        nearest = start_from_nearest(trainer, len(start.config.writers))
        pairs = [f"{new} as {known}" for new, known in nearest.items()]
        if pairs:
            more = ", …" if len(pairs) > 6 else ""
            accelerator.print(f"new writers start as the nearest known ones: {', '.join(pairs[:6])}{more}")
    return trainer


def make_distillation(
    args: argparse.Namespace, accelerator: Accelerator, checkpoint: Path | None
) -> DistillationTrainer:
    """Read the data and the teacher, and go to where the run stopped."""
    guidance = args.guidance_scale, args.writer_guidance_scale
    lesson = open_lesson(args.distil_from, checkpoint, args.student_steps, *guidance)
    words = choose_known(read_sources(parse_sources(args.dataset_path)), lesson.start, accelerator.print)
    trainer = make_distillation_trainer(
        accelerator,
        lesson,
        words,
        {field.name: getattr(args, field.name) for field in fields(DistillationSettings)},
        checkpoint,
        epochs=args.epochs,
        cache_root=args.latent_cache or args.save_path / RUN_CACHE_FOLDER,
        is_shared=args.latent_cache is not None,
    )
    if checkpoint:
        describe_resume(trainer, checkpoint)
    return trainer


def fit_hand(args: argparse.Namespace, accelerator: Accelerator) -> None:
    """Fit the hands of --dataset_path to the model of --init_from."""
    start = open_start(args)
    check_model(start, args.init_from)
    given = {name: getattr(args, name) for name in FIT_SETTINGS}
    words = read_sources(parse_sources(args.dataset_path))
    rank = DEFAULT_RANK if args.hand_rank is None else args.hand_rank
    write_hands(start, words, args.fit_hand, given, accelerator, latent_cache=args.latent_cache, rank=rank)


def describe_resume(trainer: DiffusionTrainer, checkpoint: Path) -> None:
    """Print where a run goes on, and what is not as it was."""
    report, settings = trainer.accelerator.print, trainer.settings
    report(f"resumed     {checkpoint} at step {trainer.step}")
    before, now = trainer.config.extra.get("words"), len(set(trainer.train_indices))
    if before != now:
        report(
            f"note        the run had {before} words to train on, the word folder has {now} now: it goes on"
            " with these"
        )
    if settings.max_train_steps > settings.schedule_steps and settings.lr_schedule == "cosine":
        report(
            f"note        the learning rate comes down at step {settings.schedule_steps}; --schedule_steps"
            " moves that"
        )


def describe_training(trainer: DiffusionTrainer) -> None:
    """Print what is trained on what."""
    accelerator, config, indices = trainer.accelerator, trainer.config, trainer.train_indices
    accelerator.print(
        f"words       {len(set(indices))} to train on ({len(indices)} an epoch), {len(trainer.val_indices)}"
        f" to validate on; {len(config.writers)} writers, {config.charset.describe()}"
    )
    size = sum(parameter.numel() for parameter in trainer.bare_unet.parameters()) / 1e6
    accelerator.print(
        f"model       {size:.2f} M parameters, {config.schedule.prediction_type}, on"
        f" {accelerator.num_processes} x {trainer.device}, precision {accelerator.mixed_precision};"
        f" VAE {config.vae['name']}"
    )
    if trainer.bare_unet.config.text_layout:
        accelerator.print(f"layout      widths fitted with r = {config.width_model.correlation:.3f}")


def main(args: argparse.Namespace) -> None:
    """Prepare the data, the model and the optimiser, and train."""
    accelerator = make_accelerator(args.mixed_precision, args.log_with, args.save_path)
    if args.fit_hand:
        fit_hand(args, accelerator)
        return
    with claim_run(args.save_path, args.resume, is_main=accelerator.is_main_process) as checkpoint:
        is_distilling = args.distil_from or (checkpoint and is_student(checkpoint))
        trainer = (make_distillation if is_distilling else make_trainer)(args, accelerator, checkpoint)
        if args.compile:
            compile_in_place(trainer.bare_unet, trainer.device, accelerator.print)
        s = trainer.settings
        if not is_distilling and (s.recognition_weight or s.alignment):
            origin, folder = checkpoint or args.init_from, args.save_path / LATENT_RECOGNISER_FOLDER
            prepare_latent_recogniser(trainer, folder, find_latent_recogniser(origin) if origin else None)
        if s.alignment:
            is_new = checkpoint is None and not is_distilling
            accelerator.print("alignment   " + align_training(trainer, is_new=is_new))
        describe_training(trainer)
        if args.log_with:
            settings = {key: str(value) for key, value in vars(args).items()}
            accelerator.init_trackers("diffusionhtr", config=settings)
        intervals = Intervals(
            save_every=args.save_every,
            validate_every=args.validate_every or args.save_every,
            preview_every=args.preview_every or args.save_every,
            log_every=args.log_every,
            keep_checkpoints=args.keep_checkpoints,
        )
        last_row = run_training(trainer, args.save_path, LOG_COLUMNS, intervals)
        accelerator.wait_for_everyone()
        accelerator.end_training()
    if last_row:
        accelerator.print(f"loss        {last_row['loss']}, validation {last_row['val_loss']}")
    elif accelerator.is_main_process:
        print(f"finished    at step {trainer.step} already; --max_train_steps goes further")
    accelerator.print(f"saved       {args.save_path}: write with inference.py --models_path {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
