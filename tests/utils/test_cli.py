"""The scripts' edge."""

import argparse
import errno

import pytest

from utils.cli import HelpFormatter, run
from utils.errors import UserError


@pytest.mark.parametrize(
    "error",
    [
        UserError("--flag x: wrong"),
        OSError(errno.ENOSPC, "No space left on device", "/data/x.png"),
        OSError(errno.EROFS, "Read-only file system", "/data"),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, capsys):
    def fail(args):
        raise error

    with pytest.raises(SystemExit) as end:
        run(fail, argparse.Namespace())
    assert end.value.code == 2 and capsys.readouterr().err == f"error: {error}\n"


def test_help_ends_with_the_default_where_there_is_one():
    parser = argparse.ArgumentParser(description="one\n  two", formatter_class=HelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="sampling steps")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 256), help="size in pixels")
    parser.add_argument("--share", default="5%", help="share in %%")
    parser.add_argument("--crop", action=argparse.BooleanOptionalAction, default=True, help="cut to the ink")
    parser.add_argument("--folder", help="output folder")
    parser.add_argument("--cores", default=8, help="processes (default: all cores)")
    parser.add_argument("--dry_run", action="store_true", help="nothing is written")
    text = parser.format_help()
    assert "one\n  two" in text
    for line in (
        "sampling steps (default: 50)\n",
        "size in pixels (default: 64 256)\n",
        "share in % (default: 5%)\n",
        "cut to the ink (default: True)\n",
        "output folder\n",
        "processes (default: all cores)\n",
        "nothing is written\n",
    ):
        assert line in text, text


def test_a_fault_of_the_program_shows_its_traceback():
    def fail(args):
        raise ValueError("operands could not be broadcast together")

    with pytest.raises(ValueError, match="broadcast"):
        run(fail, argparse.Namespace())


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]
)
def test_full_memory_is_one_line(error, capsys):
    def fail(args):
        raise error

    with pytest.raises(SystemExit) as end:
        run(fail, argparse.Namespace())
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.startswith("error: this machine's memory is full; give a smaller")
