"""The Hugging Face hub, where it may be out of reach: what is cached, and whether it answers within seconds."""

from collections.abc import Sequence
from pathlib import Path

HUB_TIMEOUT = 5.0  # seconds


def is_cached(hub_id: str, needed: str, weights: Sequence[str]) -> bool:
    """True if the local cache of ``hub_id`` has the file ``needed`` and any of ``weights``.

    A configuration alone is what an interrupted download leaves.
    """
    from huggingface_hub import try_to_load_from_cache

    has_needed, *has_weights = (isinstance(try_to_load_from_cache(hub_id, name), str) for name in (needed, *weights))
    return has_needed and any(has_weights)


def hub_answers() -> bool:
    """True if the hub answers a request within ``HUB_TIMEOUT`` seconds, name look-up included."""
    import threading
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            with urllib.request.urlopen(request, timeout=HUB_TIMEOUT):
                answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # an answer, whatever it says
        except OSError:
            pass

    thread = threading.Thread(target=ask, daemon=True)  # a hanging name look-up has no time limit of its own
    thread.start()
    thread.join(HUB_TIMEOUT)
    return bool(answers)


def find_model(source: str, needed: str, weights: Sequence[str], *, label: str) -> tuple[str, bool]:
    """A folder or hub id as the libraries take it, and whether it is on this disk (a folder, or cached whole).

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
        raise FileNotFoundError(f"{label}: no such folder, not in the local cache, and the hub did not answer in "
                                f"{HUB_TIMEOUT:.0f} s. Give a folder, or fetch it on a machine with a connection: hf download "
                                f"{source}")  # fmt: skip
    return source, False
