"""A page in the browser that writes a text in any hand: from a gallery, from pictures, mixed, or new.

  python3 scripts/app.py
  python3 scripts/app.py --models_path runs/iam --port 8000

It is served to this machine alone unless --host says otherwise. Pictures stay in memory, nothing is sent
anywhere, and no file is written outside of a temporary folder.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the project, from whichever folder this is run

from diffusion.pipeline import HandwritingPipeline
from generation.flags import SHIPPED_MODEL
from utils.cli import HelpFormatter, run
from utils.device import choose_device
from utils.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORT = 7860


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--models_path",
        type=Path,
        default=SHIPPED_MODEL,
        help="checkpoint, or run (its newest checkpoint) (default: the model that ships, models/demo)",
    )
    parser.add_argument(
        "--host",
        default=LOOPBACK[0],
        help="address to serve at; 0.0.0.0 serves everyone who reaches this machine, without a password",
    )
    parser.add_argument("--port", type=int, default=PORT, help="port to serve at")
    parser.add_argument("--device", help="e.g. cpu or cuda:1 (default: a GPU if there is one)")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    """Load and warm the model, then serve until a signal comes."""
    if find_spec("gradio") is None:
        raise UserError("gradio is missing, which makes the page: pip install 'gradio>=6,<7'")
    if not 0 < args.port < 2**16:
        raise UserError(f"--port {args.port}: is 1 to 65535")
    pipeline = HandwritingPipeline.from_pretrained(
        args.models_path, warn=lambda line: print(line, file=sys.stderr)
    )
    pipeline.to(choose_device(args.device))

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with TemporaryDirectory(prefix="diffusionhtr-") as folder:
        # Read by gradio when it is imported: nothing is told to anyone, and files stay in the folder.
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": folder,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",
            "MPLCONFIGDIR": folder,
        }
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        from scripts.app_desk import MOST_BYTES_TOGETHER, Desk
        from scripts.app_guard import Guard
        from scripts.app_page import build_page, launch_page

        middleware = [Middleware(Guard, most_bytes=2 * MOST_BYTES_TOGETHER)]
        if args.host in LOOPBACK:  # other names that lead here are someone's trick
            middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, "[::1]"]))
        blocks = build_page(Desk(pipeline))
        url = launch_page(blocks, host=args.host, port=args.port, middleware=middleware)
        print(f"serving     {url} (stop with Ctrl-C)", flush=True)
        stop.wait()
        blocks.close(verbose=False)


if __name__ == "__main__":
    run(main, parse_args())
