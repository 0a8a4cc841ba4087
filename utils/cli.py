"""What the scripts share at their edge: messages for users' mistakes, types of flags, and calls of other
scripts.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.errors import UserError


def run(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Call ``main(args)``; a UserError, an OSError (missing file, full disk) and full memory end with a
    message and status 2, Ctrl-C with 130."""
    try:
        main(args)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # the latter is torch's
            kind = "this machine's"
        elif type(error).__name__ == "OutOfMemoryError":
            kind = "the GPU's"
        else:
            raise
        reason = (str(error).splitlines() or ["no more can be had"])[0]
        print(
            f"error: {kind} memory is full; give a smaller --batch_size, or less at once. ({reason[:300]})",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the line breaks of the description and ends each flag's text with its default.

    Nothing is added where there is no default (None), to switches (``store_true``), and to a text that speaks
    of the default itself.
    """

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        is_switch = action.nargs == 0 and not isinstance(action, argparse.BooleanOptionalAction)
        if is_switch or action.default in (None, argparse.SUPPRESS) or "default" in text.lower():
            return text
        values = action.default if isinstance(action.default, (list, tuple)) else [action.default]
        default = " ".join(map(str, values)).replace("%", "%%")
        return f"{text} (default: {default})" if default else text


def parse_bool(value: str) -> bool:
    """``True`` or ``False`` in any case, also yes/no and 1/0.

    Raises:
        argparse.ArgumentTypeError: for anything else (``type=bool`` would take any text as true).
    """
    lowered = value.lower()
    if lowered in ("true", "yes", "1"):
        return True
    if lowered in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{value!r} is neither True nor False")


def positive_int(value: str) -> int:
    """An integer of at least 1, for ``argparse``."""
    try:
        number = int(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{value!r} is not a whole number") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return number


ROOT = Path(__file__).resolve().parent.parent


def call_script(
    name: str,
    arguments: Sequence[object],
    log: Path,
    device: str | None,
    *,
    report_every: float | None = None,
) -> None:
    """Run another script of this program, its output in ``log``.

    Args:
        report_every: seconds after which the last line of the log is printed again and again; None prints
            nothing.
    Raises:
        ValueError: if it failed; the message has its last words.
    """
    # Not a part of this launch: the scripts would take its rank for their share of the work.
    env = {
        key: value
        for key, value in os.environ.items()
        if key
        not in (
            "RANK",
            "WORLD_SIZE",
            "LOCAL_RANK",
            "MASTER_ADDR",
            "MASTER_PORT",
            "LOCAL_WORLD_SIZE",
            "GROUP_RANK",
            "ROLE_RANK",
        )
    }
    if device is not None:
        env["CUDA_VISIBLE_DEVICES"] = device
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        start = file.tell()
        process = subprocess.Popen(
            [sys.executable, str(ROOT / name), *map(str, arguments)], stdout=file, stderr=file, env=env
        )
        try:
            while (code := _wait(process, report_every)) is None:
                print(f"            {_last_line(log)}", flush=True)
        except BaseException:
            process.terminate()  # it saves and stops
            process.wait()
            raise
    if code:
        lines = log.read_bytes()[start:].decode("utf-8", errors="replace").strip().splitlines()
        last = next(
            (line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else ""
        )
        raise UserError(f"{name} ended with {code}: {last.rsplit(chr(13), 1)[-1]} (all of it in {log})")


def _wait(process: subprocess.Popen, seconds: float | None) -> int | None:
    """A process's exit code, None if it still runs after so many seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _last_line(log: Path) -> str:
    """What a progress bar in a log shows last."""
    lines = log.read_bytes()[-2000:].decode("utf-8", errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip()[:100] for line in reversed(lines) if line.strip()), "")


def flags(**values: object) -> list[str]:
    """``--name value`` of those that are not None."""
    return [part for name, value in values.items() if value is not None for part in (f"--{name}", str(value))]
