"""Sheets of generated words on the way of a training."""

from collections.abc import Sequence
from pathlib import Path

from diffusion.pipeline import HandwritingPipeline
from utils.charset import Charset
from utils.images import make_sheet
from utils.output import save_image
from utils.text_images import TextImage

PREVIEW_WORDS = 16


def write_preview(
    pipeline: HandwritingPipeline, records: Sequence[TextImage], path: Path, *, seed: int
) -> None:
    """Save a sheet of the words of some records by their writers; no file if the model knows none of them."""
    config = pipeline.config
    texts, writers = pick_previews(records, config.writers, config.charset, pipeline.unet.config.max_length)
    if not texts:
        return
    images = pipeline(texts, writers, variation=0.0, seed=seed)
    captions = [f"{text} ({writer})" for text, writer in zip(texts, writers, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(make_sheet(images, captions=captions), path)


def pick_previews(
    records: Sequence[TextImage],
    writers: Sequence[str],
    charset: Charset,
    max_length: int,
    count: int = PREVIEW_WORDS,
) -> tuple[list[str], list[str]]:
    """(texts, writers) for preview sheets: words of as many different writers as there are."""
    known = set(writers)
    candidates = [
        record
        for record in records
        if record.writer in known and len(record.text) <= max_length and not charset.unknown(record.text)
    ]
    first_of_each = {record.writer: record for record in reversed(candidates)}
    others = [record for record in candidates if first_of_each[record.writer] is not record]
    chosen = [*first_of_each.values(), *others][:count]
    return [record.text for record in chosen], [record.writer for record in chosen]
