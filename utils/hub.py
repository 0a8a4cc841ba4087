"""The Hugging Face hub, where it may be out of reach: what is cached, and whether it answers within
seconds.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

HUB_TIMEOUT = 5.0  # seconds


def is_cached(hub_id: str, needed: str, weights: Sequence[str]) -> bool:
    """True if the local cache of ``hub_id`` has the file ``needed`` and any of ``weights``.

    A configuration alone is what an interrupted download leaves.
    """
    from huggingface_hub import try_to_load_from_cache

    has_needed, *has_weights = (
        isinstance(try_to_load_from_cache(hub_id, name), str) for name in (needed, *weights)
    )
    return has_needed and any(has_weights)


def answers_in_time(ask: Callable[[], None], seconds: float) -> bool:
    """True if ``ask`` returns within ``seconds``; an OSError of it, or no end, is no answer."""
    answers: list[bool] = []

    def attempt() -> None:
        try:
            ask()
            answers.append(True)
        except OSError:
            pass

    thread = Thread(target=attempt, daemon=True)  # a hanging name look-up has no time limit of its own
    thread.start()
    thread.join(seconds)
    return bool(answers)


def hub_answers() -> bool:
    """True if the hub answers a request within ``HUB_TIMEOUT`` seconds, name look-up included."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False

    def ask() -> None:
        with suppress(urllib.error.HTTPError):  # an answer, whatever it says
            urllib.request.urlopen(
                urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=HUB_TIMEOUT
            ).close()

    return answers_in_time(ask, HUB_TIMEOUT)


def find_model(source: str, needed: str, weights: Sequence[str], *, label: str) -> tuple[str, bool]:
    """A folder or hub id as the libraries take it, and whether it is on this disk (a folder, or cached
    whole).

    Args:
        needed, weights: see ``is_cached``.
        label: flag and value, for messages.
    Raises:
        FileNotFoundError: if it is not on this disk, and either no hub id or the hub can't be reached.
    """
    if (folder := Path(source).expanduser()).is_dir():
        return str(folder), True
    if Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        raise FileNotFoundError(f"{label}: no such folder, and not a Hugging Face id (owner/name).")
    if is_cached(source, needed, weights):
        return source, True
    if not hub_answers():
        raise FileNotFoundError(
            f"{label}: no such folder, not in the local cache, and the hub did not answer in "
            f"{HUB_TIMEOUT:.0f} s. Give a folder, or fetch it on a machine with a connection: hf download "
            f"{source}"
        )
    return source, False
