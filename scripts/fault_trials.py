"""One attempt on a command: started as a user starts it, disturbed, ended, started again, compared."""

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 300  # seconds; a command that takes longer counts as hanging
GRACE = 10  # seconds that a process may outlive the command that started it
OUT = "out"
# Runs a script and kills it before the n-th change that it makes to its output folder (0: only counts them).
KILLER = """
import atexit, os, runpy, signal, sys
at, note, script = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.argv = sys.argv[3:]
sys.path[0] = os.path.dirname(script)
changes, me = 0, os.getpid()
def watch(event, args):
    global changes
    if event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"):
        return
    if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
        return
    if isinstance(args[0], int) or f"{os.sep}out" not in os.path.abspath(os.fsdecode(args[0])):
        return
    changes += 1
    if changes == at:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
def write_note():
    if os.getpid() == me:
        with open(note, "w") as file:
            file.write(str(changes))
atexit.register(write_note)
runpy.run_path(script, run_name="__main__")
"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command line, run in a folder that holds the inputs.

    Attributes:
        flags: its flags; it writes to the folder ``out``.
        restarts: flags that are added when it is started again, tried in this order until one is accepted.
        result: patterns of the files that must come out the same; without ``same_bytes`` only their names.
        pictures, table, model: what of its inputs can be damaged.
    """

    script: str
    flags: str
    result: tuple[str, ...]
    restarts: tuple[str, ...] = ("",)
    same_bytes: bool = True
    pictures: str | None = None
    table: str | None = None
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a process ended: its exit status (None: it hung), its messages, and the processes it left."""

    code: int | None
    messages: str
    survivors: tuple[int, ...] = ()

    def fault(self, codes: Sequence[int] = (0, 2)) -> str | None:
        """What does not hold, or None."""
        if self.code is None:
            return f"no end within {LONGEST} s"
        if self.survivors:
            return f"{len(self.survivors)} processes outlived it by {GRACE} s"
        lines = self.messages.strip().splitlines() or [""]
        if "Traceback (most recent call last)" in self.messages:
            return f"traceback: {lines[-1][:150]}"
        return None if self.code in codes else f"exit status {self.code}: {lines[-1][:150]}"


@dataclass(frozen=True, kw_only=True)
class Clean:
    """An undisturbed run: its result, how many seconds it took, and how many changes to files it made."""

    result: dict[str, str]
    seconds: float
    changes: int


class Trial:
    """One attempt on a command, in a folder of its own with the inputs in it."""

    def __init__(self, command: Command, inputs: Path, folder: Path, clean: Clean | None) -> None:
        self.command, self.folder, self.clean = command, folder, clean
        # Linked, not copied: what is damaged is replaced, never written into.
        shutil.copytree(inputs, folder, copy_function=os.link)

    def start(
        self, *, extra: str = "", kill_at: int | None = None, largest_file: int | None = None
    ) -> subprocess.Popen:
        """Start the command; with a ``largest_file`` in bytes, writes beyond fail as on a full disk."""
        script = str(ROOT / self.command.script)
        prefix = [] if kill_at is None else ["-c", KILLER, str(kill_at), str(self.folder / "note")]
        flags = [*self.command.flags.split(), *extra.split()]

        def limit() -> None:
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        return subprocess.Popen(
            [sys.executable, *prefix, script, *flags],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=limit,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def end(self, process: subprocess.Popen) -> Ending:
        """Wait for a process and those that it started; what remains is killed."""
        chunks: list[bytes] = []
        listener = threading.Thread(target=lambda: chunks.extend(process.stderr), daemon=True)
        listener.start()
        try:
            code = process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            code = None
            process.kill()
            process.wait()
        limit = time.monotonic() + GRACE
        while (survivors := members_of(process.pid)) and time.monotonic() < limit:
            time.sleep(0.2)
        if survivors:
            os.killpg(process.pid, signal.SIGKILL)
        listener.join(GRACE)
        messages = b"".join(chunks).decode("utf-8", errors="replace")
        return Ending(code=code, messages=messages, survivors=tuple(survivors))

    def run(self, **options) -> Ending:
        """``start`` and ``end``."""
        return self.end(self.start(**options))

    def result(self) -> dict[str, str]:
        """The hashes of the files that the command is for."""
        files = sorted(path for pattern in self.command.result for path in (self.folder / OUT).glob(pattern))
        return {
            str(path.relative_to(self.folder)): hash_file(path) if self.command.same_bytes else ""
            for path in files
        }

    def fault_of_restart(self) -> str | None:
        """Start the command again; what does not hold, or None."""
        for extra in self.command.restarts:
            ending = self.run(extra=extra)
            if fault := ending.fault():
                return f"restart: {fault}"
            if ending.code == 0:
                break
            if "finished" in ending.messages or "already" in ending.messages:
                break  # the stop came after the last step
        return None if self.result() == self.clean.result else f"restart differs: {ending.messages[-150:]!r}"


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def members_of(group: int) -> list[int]:
    """The live processes of a process group (empty where the system has no /proc)."""
    members = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = status.read_text(errors="replace").rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(of) == group and state not in "ZX":
            members.append(int(status.parent.name))
    return members
