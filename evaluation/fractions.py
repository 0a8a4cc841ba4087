"""Parts of a data set for the augmentation study: nested fractions, of each writer alike."""

import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from utils.text_images import TextImage, write_metadata

VAL_SHARE = 0.1  # of the split train, where a data set has no val


def hold_out_val(records: Sequence[TextImage]) -> list[TextImage]:
    """The records with a split ``val``: the one that they have, or else a tenth of each writer's ``train``,
    chosen by the hash of the names.
    """
    if any(record.split == "val" for record in records):
        return list(records)
    train = [record for record in records if record.split == "train"]
    val = {record.file_name for record in _share_of_each(train, VAL_SHARE)}
    return [replace(record, split="val") if record.file_name in val else record for record in records]


def choose_fraction(records: Sequence[TextImage], fraction: float) -> list[TextImage]:
    """A part of the splits ``train`` and ``val``, as many images of each as that is (at least one), of each
    writer alike as far as whole images allow; none of ``test``. A smaller fraction lies within a larger one.
    """
    return _share_of_each([record for record in records if record.split != "test"], fraction)


def _share_of_each(records: Sequence[TextImage], share: float) -> list[TextImage]:
    groups = defaultdict(list)
    for record in records:
        groups[record.split, record.writer].append(record)
    ranks: dict[str, dict[str, float]] = defaultdict(dict)
    for (split, writer), group in groups.items():
        # A writer's images part [0, 1] evenly, in the order of their hashes; where they begin differs from
        # writer to writer, so that a share of few images falls to some writers and not to all.
        begin = int.from_bytes(_hash(writer)[:8], "big") / 2**64
        in_order = sorted(group, key=lambda record: _hash(record.file_name))
        for position, record in enumerate(in_order):
            ranks[split][record.file_name] = (position + begin) / len(group)
    chosen = set()
    for rank in ranks.values():
        in_order = sorted(rank, key=lambda name: (rank[name], name))
        chosen |= set(in_order[: max(1, round(share * len(in_order)))])
    return [record for record in records if record.file_name in chosen]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def copy_images(source: Path, records: Sequence[TextImage], target: Path) -> None:
    """Make a folder of some text images of another; they are linked where the disk allows it, else copied."""
    for record in records:
        image, copy = source / record.file_name, target / record.file_name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)
        try:
            os.link(image, copy)
        except OSError:
            shutil.copyfile(image, copy)
    write_metadata(target, records)
