"""Do harm to the commands for a bounded time, and print what was tried and what held.

  python3 scripts/fault_campaign.py --minutes 30
  python3 scripts/fault_campaign.py --minutes 5 --commands process_dataset --faults kill_at_file pictures
  python3 scripts/fault_campaign.py --minutes 5 --commands inference --seed 12

The commands are called as a user calls them, on made-up data. A command holds if it never shows a traceback
nor hangs, if what a kill or a full disk stopped comes out as if nothing had happened once it is started
again, and if no process outlives it.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:  # the project's root, from whichever folder this is run
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.fault_inputs import damage_checkpoint, damage_pictures, damage_table, make_raw_data
from scripts.fault_trials import ROOT, Clean, Command, Trial
from utils.cli import HelpFormatter

FOLDER_RESULT = ("images/*.png", "metadata.jsonl")
TRAINING = (
    "--dataset_path words --vae model/vae --save_path out --preset tiny --max_train_steps 4 --batch_size 4"
    " --save_every 2 --log_every 1 --keep_checkpoints 5 --lr_warmup_steps 1 --mixed_precision no"
    " --preview_every 1000"
)
COMMANDS = {
    "process_dataset": Command(
        script="preprocessing/process_dataset.py",
        flags="--dataset_path raw --save_dir out --num_workers 2",
        result=FOLDER_RESULT,
        pictures="raw",
        table="raw/table.csv",
    ),
    "train_diffusion": Command(
        script="train_diffusion.py",
        flags=TRAINING,
        result=("step_*4/unet.safetensors",),
        restarts=("--resume", ""),
        pictures="words/images",
        table="words/metadata.jsonl",
        model="model/vae",
    ),
    "inference": Command(
        script="inference.py",
        flags="--models_path model --save_path out --words cab face deed --num_steps 2 --batch_size 2",
        result=FOLDER_RESULT,
        model="model",
    ),
    "filter_words": Command(
        script="generation/filter_words.py",
        flags="--dataset_path words --save_dir out --by nmae --reference copy --top 50",
        result=FOLDER_RESULT,
        pictures="words/images",
        table="words/metadata.jsonl",
    ),
    "evaluate": Command(
        script="evaluation/evaluate.py",
        flags="--real words --generated copy --save_dir out --metrics nmae diversity --split all",
        result=("metrics.json", "report.html"),
        same_bytes=False,
        pictures="words/images",
        table="words/metadata.jsonl",
    ),
}


# --- the faults: each does one harm, and returns what did not hold, or None ---


def kill_at_file(trial: Trial, rng: random.Random) -> str | None:
    """SIGKILL just before a file or folder of the output is made, renamed or removed."""
    ending = trial.run(kill_at=rng.randint(1, max(1, trial.clean.changes)))
    return ending.fault((0, -signal.SIGKILL)) or trial.fault_of_restart()


def kill_at_random(trial: Trial, rng: random.Random) -> str | None:
    """SIGKILL, SIGTERM or Ctrl-C at any moment."""
    process = trial.start()
    time.sleep(rng.uniform(0, trial.clean.seconds))
    number = rng.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
    process.send_signal(number)
    ending = trial.end(process)
    if fault := ending.fault((0, 2, 130, -number)):
        is_early = number == signal.SIGINT and "KeyboardInterrupt" in ending.messages  # while modules load
        if not is_early or ending.survivors:
            return f"{number.name}: {fault}"
    return trial.fault_of_restart()


def disk_full(trial: Trial, rng: random.Random) -> str | None:
    """No file can grow beyond some size."""
    sizes = [path.stat().st_size for path in trial.folder.rglob("*") if path.is_file()] or [1]
    fault = trial.run(largest_file=rng.choice((0, 100, 1000, 10_000, rng.randint(1, max(sizes))))).fault()
    return fault or trial.fault_of_restart()


def two_at_once(trial: Trial, rng: random.Random) -> str | None:
    """Two processes write to one folder, the second starts a little later."""
    first = trial.start()
    time.sleep(rng.uniform(0, trial.clean.seconds) * rng.choice((0, 1)))
    second = trial.start(extra=rng.choice(trial.command.restarts))
    endings = [trial.end(process) for process in (first, second)]
    faults = [fault for ending in endings if (fault := ending.fault())]
    if faults:
        return faults[0]
    return trial.fault_of_restart() if any(ending.code for ending in endings) else None


def damaged(damage: Callable[[Path, random.Random], str], part: str) -> Callable:
    """The fault that damages one of the command's inputs."""

    def harm(trial: Trial, rng: random.Random) -> str | None:
        what = damage(trial.folder / getattr(trial.command, part), rng)
        fault = trial.run().fault()
        return fault and f"{what}: {fault}"

    harm.__doc__ = damage.__doc__
    return harm


FAULTS: dict[str, Callable[[Trial, random.Random], str | None]] = {
    "kill_at_file": kill_at_file,
    "kill_at_random": kill_at_random,
    "disk_full": disk_full,
    "two_at_once": two_at_once,
    "pictures": damaged(damage_pictures, "pictures"),
    "table": damaged(damage_table, "table"),
    "model": damaged(damage_checkpoint, "model"),
}


def make_inputs(folder: Path) -> None:
    """``raw`` (pictures and a table), ``words`` (a folder of text images), ``copy`` of it, and ``model``."""
    make_raw_data(folder / "raw")
    script = str(ROOT / "preprocessing" / "process_dataset.py")
    flags = ["--dataset_path", "raw", "--save_dir", "words", "--img_size", "64", "128", "--num_workers", "1"]
    subprocess.run([sys.executable, script, *flags], cwd=folder, check=True, capture_output=True)
    shutil.copytree(folder / "words", folder / "copy")
    shutil.copytree(ROOT / "models" / "demo", folder / "model")


def run_clean(command: Command, inputs: Path, folder: Path) -> Clean:
    """Run a command undisturbed.

    Raises:
        SystemExit: if it fails.
    """
    trial = Trial(command, inputs, folder, None)
    start = time.monotonic()
    ending = trial.run(kill_at=0)
    if ending.code != 0 or not trial.result():
        sys.exit(f"{command.script} fails undisturbed:\n{ending.messages[-2000:]}")
    seconds, changes = time.monotonic() - start, int((folder / "note").read_text())
    return Clean(result=trial.result(), seconds=seconds, changes=changes)


def run_campaign(args: argparse.Namespace, work_dir: Path) -> int:
    """Try until the time is over; print the table; returns the number of trials that did not hold."""
    end = time.monotonic() + 60 * args.minutes
    inputs = work_dir / "inputs"
    inputs.mkdir()
    make_inputs(inputs)
    clean: dict[str, Clean] = {}
    tried: dict[tuple[str, str], int] = defaultdict(int)
    failures: list[tuple[str, str, int, str]] = []
    number = args.seed
    pairs = [(name, fault) for name in args.commands for fault in args.faults]
    pairs = [(n, f) for n, f in pairs if f not in ("pictures", "table", "model") or getattr(COMMANDS[n], f)]
    while pairs and time.monotonic() < end:
        for name, fault in pairs:
            if time.monotonic() >= end:
                break
            command, folder = COMMANDS[name], work_dir / "trial"
            if name not in clean:
                clean[name] = run_clean(command, inputs, work_dir / f"clean_{name}")
            shutil.rmtree(folder, ignore_errors=True)
            problem = FAULTS[fault](Trial(command, inputs, folder, clean[name]), random.Random(number))
            tried[name, fault] += 1
            if problem:
                failures.append((name, fault, number, problem))
                print(f"not held    {name} {fault} --seed {number}: {problem}", flush=True)
            number += 1
    print_table(tried, failures)
    return len(failures)


def print_table(tried: dict[tuple[str, str], int], failures: Sequence[tuple[str, str, int, str]]) -> None:
    """Tried and held by command and fault."""
    print(f"{'command':18}{'fault':16}{'tried':>7}{'held':>7}")
    for (name, fault), count in sorted(tried.items()):
        bad = sum((name, fault) == failure[:2] for failure in failures)
        print(f"{name:18}{fault:16}{count:7}{count - bad:7}")
    total = sum(tried.values())
    print(f"{'all':34}{total:7}{total - len(failures):7}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=10, help="time for all trials; the last one is ended"
    )
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="commands")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), help="kinds of harm")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of the first trial, the next has one more"
    )
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    """Run the campaign in a temporary folder; exit status 1 if anything did not hold."""
    with tempfile.TemporaryDirectory(prefix="fault_campaign-") as folder:
        if run_campaign(args, Path(folder)):
            sys.exit(1)


if __name__ == "__main__":
    main(parse_args())
