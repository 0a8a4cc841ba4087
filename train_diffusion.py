"""Train the handwriting generator on one or more word folders.

  python3 train_diffusion.py --dataset iam --iam_path data/iam --epochs 1000
  python3 train_diffusion.py --dataset_path data/me --init_from runs/iam --max_train_steps 2000 --save_path runs/me
  python3 train_diffusion.py --save_path runs/iam --iam_path data/iam --resume
  accelerate launch --num_processes 4 train_diffusion.py --dataset iam --iam_path data/iam

A run folder holds step_* checkpoints (each is all that inference.py needs), log.csv and previews/.
SIGTERM and Ctrl-C save and stop; --resume goes on as if nothing had happened.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.tracking import get_available_trackers
from torch import nn
from tqdm import tqdm

from autoencoder import VAE_FOLDER, hash_vae, load_vae, vae_in_channels
from diffusion_trainer import DiffusionTrainer, TrainingLog, TrainingSettings, read_settings
from fresh_model import FreshModel
from latent_reader import READER_FOLDER, find_reader
from model_card import ModelCard
from new_writers import start_from_nearest
from pipeline import HandwritingPipeline
from unet import PRESETS, UNet
from utils.checkpoint import (
    CONFIG_NAME,
    STATE_NAME,
    TRAINING_STATE,
    choose_resume,
    load_training_state,
    truncate_csv,
)
from utils.cli import positive_int, run
from utils.compiling import compile_in_place
from utils.diffusion import PREDICTION_TYPES
from utils.latents import CACHE_FOLDER, LatentCache, build_latent_cache
from utils.sources import parse_sources, read_image, read_sources
from utils.training import StopFlag, has_fast_bf16

DEFAULT_EPOCHS = 1000
MODEL_FLAGS = ("preset", "model_channels", "num_heads", "text_layout", "max_length", "prediction_type")
DEFAULT_VAE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
# Peak learning rate, words a step and weight of legibility of each size, where no flag says otherwise.
RECIPES = {"wordstylist": (1e-4, 224, 0.0), "base": (2e-4, 128, 0.5), "small": (6e-4, 64, 0.5), "tiny": (2e-3, 32, 0.0)}
# At the rate of the other weights, rows of new writers stay where they start.
NEW_WRITERS_FACTOR = 60.0


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_argument_group("data and output")
    group.add_argument("--dataset", default="words", help="a label: names the run's folder (default: %(default)s)")
    group.add_argument("--dataset_path", "--iam_path", nargs="+", required=True, metavar="FOLDER[:SHARE]",
                       help="word folders; FOLDER:2 counts twice in an epoch, FOLDER:0.5 half of it")  # fmt: skip
    group.add_argument("--save_path", type=Path, help="the run's folder (default: runs/<dataset>)")
    group.add_argument("--vae", help="Hugging Face id or folder of a Stable Diffusion VAE, or a run of train_autoencoder.py "
                       f"(default: {DEFAULT_VAE}, or that of --init_from)")  # fmt: skip
    group.add_argument("--latent_cache", type=Path, help="folder for encoded images (default: beside the first word folder)")
    group.add_argument("--resume", action="store_true", help="go on with the run in --save_path")
    group.add_argument("--init_from", type=Path, help="checkpoint or run to start from; writers and characters that it knows "
                       "keep their rows; new writers start as the known one in whose hand it expects their words most, new "
                       "characters from the mean")  # fmt: skip
    group = parser.add_argument_group("model")
    group.add_argument("--preset", choices=tuple(PRESETS), help="size and conditioning (default: base)")
    group.add_argument("--model_channels", type=positive_int, help="channels, a multiple of 32 (default: the preset's)")
    group.add_argument("--num_heads", type=positive_int, help="attention heads (default: the preset's)")
    group.add_argument("--text_layout", action=argparse.BooleanOptionalAction, default=None,
                       help="lay the text out over the columns (default: the preset's)")  # fmt: skip
    group.add_argument("--max_length", type=positive_int, help="longest text in characters (default: the longest there is)")
    group.add_argument("--prediction_type", choices=PREDICTION_TYPES, help="what the UNet predicts (default: "
                       "flow_prediction; epsilon for wordstylist)")  # fmt: skip
    group = parser.add_argument_group("training", "a resumed run keeps its settings unless a flag says otherwise")
    group.add_argument("--epochs", type=positive_int, help=f"passes over the words (default: {DEFAULT_EPOCHS})")
    group.add_argument("--max_train_steps", type=positive_int, help="steps in all, instead of --epochs")
    group.add_argument("--schedule_steps", type=positive_int, help="step at which the learning rate has come down; stopping "
                       "earlier does not shorten it (default: all steps)")  # fmt: skip
    group.add_argument("--lr_schedule", choices=("cosine", "constant"), help=f"default: {TrainingSettings.lr_schedule}")
    group.add_argument("--lr_warmup_steps", type=int, help=f"default: {TrainingSettings.lr_warmup_steps}")
    group.add_argument("--learning_rate", type=float, help="peak of AdamW's (default: 2e-4 for base, 6e-4 for small)")
    group.add_argument("--writer_rate_factor", type=float, metavar="FACTOR", help="learning rate of the writers' rows, as a "
                       "multiple of --learning_rate: new hands leave the mean hand the sooner the higher it is (default: "
                       f"{NEW_WRITERS_FACTOR:g} with --init_from, else 1)")  # fmt: skip
    group.add_argument("--weight_decay", type=float, help=f"default: {TrainingSettings.weight_decay}")
    group.add_argument("--max_grad_norm", type=float, help="gradients are clipped to this norm (default: "
                       f"{TrainingSettings.max_grad_norm})")  # fmt: skip
    group.add_argument("--batch_size", type=positive_int, help="words a step on each process (default: 128 for base, 64 for "
                       "small)")  # fmt: skip
    group.add_argument("--ema_decay", type=float, help="of the averaged weights, which are what is sampled from; 0 turns "
                       f"averaging off (default: {TrainingSettings.ema_decay})")  # fmt: skip
    group.add_argument("--text_dropout", type=float, help="chance that a word's text is replaced by null (default: "
                       f"{TrainingSettings.text_dropout})")  # fmt: skip
    group.add_argument("--writer_dropout", type=float, help="the same for its writer (default: "
                       f"{TrainingSettings.writer_dropout})")  # fmt: skip
    group.add_argument("--legibility_weight", type=float, help="of a second loss: what a small recogniser of latents, which "
                       "learns the training words first, can't read in the model's predictions; 0 does without (default: "
                       "0.5 for base and small)")  # fmt: skip
    group.add_argument("--reader_steps", type=positive_int, help="steps that this recogniser learns for; a fifth of them if "
                       f"one comes with --init_from (default: {TrainingSettings.reader_steps})")  # fmt: skip
    group.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), help="default: bf16 where it is native")
    group.add_argument("--compile", action="store_true", help="torch.compile the UNet: faster on a GPU after a minute, "
                       "useless on a CPU")  # fmt: skip
    group.add_argument("--seed", type=int, help=f"of weights, order, noise (default: {TrainingSettings.seed})")
    group = parser.add_argument_group("on the way")
    group.add_argument("--save_every", type=positive_int, default=1000, help="steps between checkpoints (default: "
                       "%(default)s)")  # fmt: skip
    group.add_argument("--keep_checkpoints", type=positive_int, default=3, help="newest ones kept (default: %(default)s)")
    group.add_argument("--validate_every", type=positive_int, help="steps between validation losses (default: --save_every)")
    group.add_argument("--preview_every", type=positive_int, help="steps between preview sheets (default: --save_every)")
    group.add_argument("--log_every", type=positive_int, default=50, help="steps between log rows (default: %(default)s)")
    group.add_argument("--log_with", choices=("tensorboard", "wandb"), help="also log to this tracker")
    args = parser.parse_args(argv)
    for name in ("text_dropout", "writer_dropout", "ema_decay"):
        if not 0 <= (getattr(args, name) or 0) < 1:
            parser.error(f"--{name} {getattr(args, name)}: must be at least 0 and under 1")
    if args.legibility_weight is not None and not 0 <= args.legibility_weight < math.inf:
        parser.error(f"--legibility_weight {args.legibility_weight}: must be at least 0")
    for name in ("learning_rate", "max_grad_norm", "writer_rate_factor"):
        if getattr(args, name) is not None and not 0 < getattr(args, name) < math.inf:
            parser.error(f"--{name} {getattr(args, name)}: must be above 0")
    for name in (name for name in MODEL_FLAGS if name != "max_length"):
        if args.init_from and getattr(args, name) is not None:
            parser.error(f"--{name} {getattr(args, name)}: --init_from brings its own; leave one of them out")
    args.save_path = args.save_path or Path("runs") / args.dataset
    return args


@dataclass(frozen=True)
class Intervals:
    """Steps between what happens on the way; see the flags of the same names."""

    save_every: int
    validate_every: int
    preview_every: int
    log_every: int
    keep_checkpoints: int


def make_accelerator(mixed_precision: str | None, log_with: str | None, save_path: Path) -> Accelerator:
    """The accelerator, with bf16 where it is native unless a flag says otherwise.

    Raises:
        ValueError: for fp16 on a CPU, or a tracker that is not installed.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    precision = mixed_precision or ("bf16" if has_fast_bf16(device) else "no")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("--mixed_precision fp16: needs a GPU. On a CPU use bf16 or no.")
    if log_with and log_with not in map(str, get_available_trackers()):  # accelerate would go on without a word
        raise ValueError(f"--log_with {log_with}: not installed. Run `pip install {log_with}`, or leave the flag out.")
    # Processes wait for the one that encodes the images: with half a million of them much longer than the usual ten minutes.
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=12))
    return Accelerator(mixed_precision=precision, log_with=log_with, project_dir=save_path, kwargs_handlers=[patience])


def choose_vae(vae: str | None, checkpoint: Path | None, start: HandwritingPipeline | None) -> tuple[nn.Module, str]:
    """The VAE and its name: what --vae says, else that of the run resumed or started from, else Stable Diffusion's."""
    if vae is None and start is not None:
        return start.vae, start.card.vae["name"]
    if vae is None and checkpoint is not None:
        name = json.loads((checkpoint / CONFIG_NAME).read_text(encoding="utf-8"))["vae"]["name"]
        return load_vae(checkpoint if (checkpoint / VAE_FOLDER).is_dir() else name), name
    name = vae or DEFAULT_VAE
    if Path(name).expanduser().is_dir():  # a checkpoint is read from other working folders too
        name = str(Path(name).expanduser().resolve())
    return load_vae(name), name


def make_settings(given: dict, epochs: int | None, card: ModelCard, words_an_epoch: int, ranks: int,
                  resumed: TrainingSettings | None) -> TrainingSettings:  # fmt: skip
    """The settings from the flags that were given; a resumed run keeps its own for the others.

    Args:
        given: flags by the names of ``TrainingSettings``, None where not given; ``batch_size`` is that of one process.
    """
    rate, batch, legibility = RECIPES.get(str(card.extra.get("preset")), RECIPES["base"])
    batch = given["batch_size"] or (resumed.batch_size // ranks if resumed else batch)
    steps = given["max_train_steps"] or (resumed.max_train_steps if resumed and not epochs else
                                         math.ceil((epochs or DEFAULT_EPOCHS) * words_an_epoch / (batch * ranks)))  # fmt: skip
    factor = NEW_WRITERS_FACTOR if "init_from" in card.extra else 1.0
    start = resumed or TrainingSettings(steps, steps, batch * ranks, rate, legibility_weight=legibility,
                                        writer_rate_factor=factor)  # fmt: skip
    changes = {name: value for name, value in given.items() if value is not None}
    return replace(start, **{**changes, "max_train_steps": steps, "batch_size": batch * ranks})


def make_model(given: dict, checkpoint: Path | None, start: HandwritingPipeline | None,
               fresh: FreshModel) -> tuple[UNet, ModelCard]:  # fmt: skip
    """The UNet and its card: of the checkpoint to resume, grown from --init_from, or new.

    Args:
        given: the flags of the group "model" by name, None where not given.
    """
    if checkpoint:
        card, config = ModelCard.from_dict(json.loads((checkpoint / CONFIG_NAME).read_text(encoding="utf-8")))
        if card.vae["hash"] != fresh.vae["hash"]:
            raise ValueError(f"--vae {fresh.vae['name']}: not the VAE that this run was trained with ({card.vae['name']})")
        own = {**config.to_dict(), "preset": card.extra.get("preset"), "prediction_type": card.schedule.prediction_type}
        for name, value in given.items():
            if value not in (None, own[name]):
                raise ValueError(f"--{name} {value}: the run to --resume has {own[name]}. Leave it out.")
        if unknown := set().union(*fresh.texts) - set(card.charset.characters):
            raise ValueError(f"--resume: the word folder has characters that the run does not know: {sorted(unknown)}. Start a "
                             "new run from it with --init_from.")  # fmt: skip
        if unknown := set(fresh.writers) - set(card.writers):
            raise ValueError(f"--resume: the word folder has writers that the run does not know: {sorted(unknown)[:10]}. Start "
                             "a new run from it with --init_from.")  # fmt: skip
        return UNet(config), card
    if start:
        return fresh.grow(start)
    preset = given["preset"] or "base"
    changes = {name: given[name] for name in ("model_channels", "num_heads", "text_layout") if given[name] is not None}
    prediction_type = given["prediction_type"] or ("epsilon" if preset == "wordstylist" else "flow_prediction")
    return fresh.build(preset, prediction_type, **changes)


def train(trainer: DiffusionTrainer, run_folder: Path, intervals: Intervals) -> TrainingLog:
    """The loop: steps, and at intervals log rows, validation, checkpoints and previews."""
    accelerator, is_main = trainer.accelerator, trainer.accelerator.is_main_process
    last_step = trainer.settings.max_train_steps
    if is_main:
        truncate_csv(run_folder / "log.csv", trainer.step, TrainingLog.COLUMNS)
    log = TrainingLog(run_folder / "log.csv", trainer)
    bar = tqdm(total=last_step, initial=trainer.step, unit="step", desc="train", disable=not accelerator.is_local_main_process)
    trainer.unet.train()
    with StopFlag() as stop, bar:
        is_last = trainer.step >= last_step
        while not is_last:
            learning_rate = trainer.learning_rate()
            loss, grad_norm = trainer.train_step()
            log.add(loss)
            bar.update()
            step = trainer.step
            # One decision for all processes: a signal may have reached only some of them.
            is_stopped = stop.is_set
            if accelerator.num_processes > 1:
                is_stopped = accelerator.reduce(torch.tensor(float(stop.is_set), device=trainer.device)).item() > 0
            is_last = step >= last_step or is_stopped
            is_validating = step % intervals.validate_every == 0 or is_last
            is_saving = step % intervals.save_every == 0 or is_last
            is_logging = is_validating or step % intervals.log_every == 0
            if is_main and (is_logging or is_saving) and not math.isfinite(log.mean_loss()):
                raise ValueError(f"the loss is not finite at step {step}. Earlier checkpoints are whole: go on from them "
                                 f"with --resume and a lower --learning_rate than {learning_rate:.1e}.")  # fmt: skip
            if is_main and is_logging:
                val_loss = trainer.validate() if is_validating else None
                bar.set_postfix(log.write(learning_rate=learning_rate, grad_norm=float(grad_norm), val_loss=val_loss))
            if is_main and is_saving:
                trainer.save(run_folder, intervals.keep_checkpoints)
            if is_main and (step % intervals.preview_every == 0 or is_last):
                trainer.write_preview(run_folder / "previews" / f"step_{step:08d}.png")
    return log


def main(args: argparse.Namespace) -> None:
    """Prepare the words, the model and the optimiser, and train."""
    checkpoint = choose_resume(args.save_path, args.resume)
    accelerator = make_accelerator(args.mixed_precision, args.log_with, args.save_path)
    device, ranks, say = accelerator.device, accelerator.num_processes, accelerator.print

    # The words, and their latents: each image is encoded once.
    sources = parse_sources(args.dataset_path)
    words = read_sources(sources)
    start = None
    if args.init_from and not checkpoint:
        start = HandwritingPipeline.from_pretrained(args.init_from, vae=args.vae, flag="--init_from")
    vae, vae_name = choose_vae(args.vae, checkpoint, start)
    vae_info = {"name": vae_name, "hash": hash_vae(vae)}
    vae.to(device)
    with accelerator.main_process_first():
        folder = build_latent_cache(words.paths, vae, vae_info["hash"], args.latent_cache or sources[0].folder / CACHE_FOLDER,
                                    channels=vae_in_channels(vae), device=device,
                                    is_main=accelerator.is_main_process)  # fmt: skip
    vae.to("cpu")
    cache = LatentCache(folder)

    # The model.
    torch.manual_seed(args.seed or TrainingSettings.seed)
    chosen = words.train_indices()
    extra = {"dataset": args.dataset, "words": len(set(chosen))}
    fresh = FreshModel([words.records[i].text for i in chosen], [words.records[i].writer for i in chosen], cache.ink[chosen],
                       read_image(words.paths[0]).shape, args.max_length, vae_info, extra)  # fmt: skip
    unet, card = make_model({name: getattr(args, name) for name in MODEL_FLAGS}, checkpoint, start, fresh)

    # The optimiser, and where to go on.
    resumed = read_settings(checkpoint / TRAINING_STATE / STATE_NAME) if checkpoint else None
    given = {field.name: getattr(args, field.name) for field in fields(TrainingSettings)}
    settings = make_settings(given, args.epochs, card, len(chosen), ranks, resumed)
    trainer = DiffusionTrainer(accelerator, unet, card, vae, words, cache, settings)
    if checkpoint:
        trainer.restore(*load_training_state(checkpoint / TRAINING_STATE, trainer.bare_unet, trainer.optimizer.optimizer))
        say(f"resumed     {checkpoint} at step {trainer.step}")
        if card.extra.get("words") != len(set(chosen)):
            say(f"note        the run had {card.extra.get('words')} words to train on, the word folder has {len(set(chosen))} "
                "now: it goes on with these")  # fmt: skip
        if settings.max_train_steps > settings.schedule_steps and settings.lr_schedule == "cosine":
            say(f"note        the learning rate comes down at step {settings.schedule_steps}; --schedule_steps moves that")
    elif start:
        nearest = start_from_nearest(trainer, len(start.card.writers))
        if nearest:
            pairs = [f"{new} as {known}" for new, known in nearest.items()]
            say(f"new hands   start as the nearest known ones: {', '.join(pairs[:6])}{', …' if len(pairs) > 6 else ''}")
    if args.compile:
        compile_in_place(trainer.bare_unet, device, say)
    if settings.legibility_weight:
        origin = checkpoint or args.init_from
        trainer.prepare_reader(args.save_path / READER_FOLDER, find_reader(origin) if origin else None)
    say(f"words       {len(set(chosen))} to train on ({len(chosen)} an epoch), {len(trainer.val_indices)} to validate on; "
        f"{len(card.writers)} writers, {card.charset.describe()}")  # fmt: skip
    say(f"model       {sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M parameters, {card.schedule.prediction_type}, "
        f"on {ranks} x {device}, precision {accelerator.mixed_precision}; VAE {vae_name}")  # fmt: skip
    if unet.config.text_layout:
        say(f"layout      widths fitted with r = {card.width_model.correlation:.3f}")
    if args.log_with:
        accelerator.init_trackers("diffusionhtr", config={key: str(value) for key, value in vars(args).items()})

    log = train(trainer, args.save_path, Intervals(args.save_every, args.validate_every or args.save_every,
                                                   args.preview_every or args.save_every, args.log_every,
                                                   args.keep_checkpoints))  # fmt: skip
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if accelerator.is_main_process:
        if trainer.step < settings.max_train_steps:
            print(f"stopped     at step {trainer.step} of {settings.max_train_steps}; --resume goes on", file=sys.stderr)
        if log.last:
            print(f"loss        {log.last['loss']}, validation {log.last['val_loss']}")
        else:
            print(f"finished    at step {trainer.step} already; --max_train_steps goes further")
        print(f"saved       {args.save_path}: write with inference.py --models_path {args.save_path}")


if __name__ == "__main__":
    run(main, parse_args())
