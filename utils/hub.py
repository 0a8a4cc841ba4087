"""The Hugging Face hub, where it may be out of reach: what is cached, and whether it answers within seconds."""

from collections.abc import Sequence

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
