"""The folder that a command of this step writes to: whose it is, what of it is there already, and which part
of the work is this process's.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.output import LOCK_NAME, claim_folder, lock_folder, write_atomically
from utils.text_images import IMAGE_FOLDER, METADATA_NAME

SHEET_FOLDER = "sheets"
SHEET_NAME = "sheet.png"
INDEX_NAME = "index.json"  # of tar files; it says that all are there
# What --overwrite removes. First of all what says that the output is complete.
OUTPUTS = (
    *(METADATA_NAME, INDEX_NAME, "*.jsonl", "words-*.tar", "words-*.json", SHEET_NAME),
    *(IMAGE_FOLDER, SHEET_FOLDER),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Part ``number`` (from 0) of ``count`` of the work."""

    number: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        """E.g. ``00001-of-00004``, for file names."""
        return f"{self.number:05d}-of-{self.count:05d}"

    def describe(self) -> str:
        """E.g. ``1 of 4``, for messages."""
        return f"{self.number} of {self.count}"

    @property
    def lock_name(self) -> str:
        """The lock that this part's process holds on the output folder."""
        return LOCK_NAME if self.count == 1 else f"{LOCK_NAME}-{self.name}"


def prepare_output(
    folder: Path,
    settings: dict,
    overwrite: bool,
    *,
    marker: str,
    flag: str,
    outputs: Sequence[str] = OUTPUTS,
) -> None:
    """Make an output folder, or make sure that it is this command's to go on in.

    Args:
        settings: what the output depends on; kept in the file ``marker`` of the folder.
        overwrite: remove what is there, whatever its settings.
        flag: the command line flag to name in messages.
        outputs: names and patterns of what ``overwrite`` removes, in this order.
    Raises:
        UserError: if the folder holds something else, the output of other settings, or a damaged marker.
    """
    content = json.dumps(settings, indent=2, ensure_ascii=False)
    if overwrite:
        # Read only for whether it is there: a damaged one may be overwritten too.
        if not (folder / marker).is_file():
            claim_folder(folder, flag, marker=marker)
        for pattern in outputs:
            for path in sorted(folder.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    else:
        try:
            held = claim_folder(folder, flag, marker=marker)
        except UserError as error:
            if not (folder / marker).is_file():
                raise
            raise UserError(f"{error} Or give --overwrite, which makes the folder anew.") from error
        if held is not None and held != json.loads(content):
            raise UserError(
                f"{flag} {folder}: holds words of other settings (see {marker}). Name another folder, or give"
                " --overwrite."
            )
        if held is not None:
            return
    write_atomically(folder / marker, content)


def check_apart(folder: Path, flag: str, source: Path, source_flag: str) -> None:
    """Raise a UserError if an output folder is its source, or one lies in the other."""
    one, other = folder.resolve(), source.resolve()
    if one == other:
        raise UserError(f"{flag} {folder}: is {source_flag}. Name another folder.")
    if one.is_relative_to(other) or other.is_relative_to(one):
        inner, outer = (flag, source_flag) if one.is_relative_to(other) else (source_flag, flag)
        raise UserError(f"{flag} {folder}: {inner} lies in {outer}. Name a folder beside {source}.")


@contextmanager
def lock_part(folder: Path, part: Part, flag: str, *, overwrite: bool = False) -> Iterator[None]:
    """Keep other processes out of a part of an output folder; with ``overwrite`` out of all of it.

    Raises:
        UserError: if another process is at work there.
    """
    with ExitStack() as stack:
        stack.enter_context(lock_folder(folder, flag, name=part.lock_name))
        if overwrite:
            for path in folder.glob(f"{LOCK_NAME}-*-of-*"):
                stack.enter_context(lock_folder(folder, flag, name=path.name))
        yield


def remove_leftovers(folder: Path) -> None:
    """Remove the half-written files of killed processes; call it while no other process writes there."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def remove_leftovers_of_parts(folder: Path, part: Part, flag: str) -> None:
    """``remove_leftovers`` when all parts are done; not while another part's process is still there."""
    try:
        with ExitStack() as stack:
            for number in range(part.count):
                other = Part(number=number, count=part.count)
                if other != part:
                    stack.enter_context(lock_folder(folder, flag, name=other.lock_name))
            remove_leftovers(folder)
    except UserError:
        return
