"""The scripts' edge."""

import argparse
import errno

import pytest

from utils.cli import run
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


def test_a_fault_of_the_program_shows_its_traceback():
    def fail(args):
        raise ValueError("operands could not be broadcast together")

    with pytest.raises(ValueError, match="broadcast"):
        run(fail, argparse.Namespace())
