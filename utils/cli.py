"""What the scripts share at their edge: errors of the user's making become one readable line."""

import argparse
import sys
from collections.abc import Callable


def run(main: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Call ``main(args)``; a ValueError or OSError (missing file, full disk) ends with its message and status 2, Ctrl-C with
    130."""
    try:
        main(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"error: the GPU's memory is full; give a smaller --batch_size. ({str(error).splitlines()[0]})", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


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
