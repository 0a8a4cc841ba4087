"""Where the encoded images of a training lie, and what of them is removed.

The rule: they lie in the run's folder and are removed with it; a run keeps those of its last images and VAE
alone. A folder named on the command line is shared by runs and only loses what killed processes left half
done. Encoded images that earlier versions left beside the first folder of text images are still read.
"""

import shutil
import time
from pathlib import Path

RUN_CACHE_FOLDER = "latent_cache"
FORMER_CACHE_FOLDER = ".latent_cache"  # beside the images
ABANDONED_AFTER = 2 * 24 * 3600  # seconds after which nobody can still be writing a half-written cache


def choose_cache_root(given: Path | None, run: Path, images: Path, key: str) -> Path:
    """The folder of caches: the one given, else the run's own, or the one beside the images if the cache is
    there already.

    Args:
        images: the first folder of text images.
        key: the cache's name; see ``dataset.cache_key``.
    """
    if given is not None:
        return given
    own, former = run / RUN_CACHE_FOLDER, images / FORMER_CACHE_FOLDER
    has_former = (former / key / "index.json").is_file() and not (own / key / "index.json").is_file()
    return former if has_former else own


def tidy_cache_root(root: Path, run: Path, key: str) -> None:
    """Remove what nobody will use again; call it on one process, under the run's lock."""
    if not root.is_dir():
        return
    for path in root.iterdir():
        if root == run / RUN_CACHE_FOLDER:
            is_useless = path.name != key
        else:
            is_useless = (
                path.name.startswith(".tmp-") and time.time() - path.stat().st_mtime > ABANDONED_AFTER
            )
        if is_useless:
            shutil.rmtree(path, ignore_errors=True)
