"""Tiny made-up data sets in the grammars of the real ones, drawn with Pillow's own font; and what runs the
scripts.
"""

import hashlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from utils.output import save_image
from utils.text_images import IMAGE_FOLDER, TextImage, write_metadata

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = (
    ROOT / "tests" / "data" / "published"
)  # random weights in the published layout, and what they predict
IMG_SIZE = (32, 64)  # of the tests that train
WRITERS = ("01", "02", "03")
WORDS = ("cab", "abe", "deaf", "bad", "ace", "face", "dab", "fed", "bead", "cafe", "deed", "fade") * 2
TINY_TRAINING = (
    "--preset",
    "tiny",
    "--batch_size",
    "4",
    "--save_every",
    "2",
    "--log_every",
    "1",
    "--keep_checkpoints",
    "5",
    "--lr_warmup_steps",
    "1",
    "--mixed_precision",
    "no",
    "--preview_every",
    "1000",
)


def forget_accelerator() -> None:
    """Let this process make an Accelerator of another precision: it has one state for all of them."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def run_script(name: str, *argv: object) -> None:
    """Call a script's ``main`` in this process with a command line; ``name`` is its path from the root,
    without ``.py``.
    """
    forget_accelerator()
    script = importlib.import_module(name.replace("/", "."))
    script.main(script.parse_args([str(value) for value in argv]))


def start_script(
    name: str, *argv: object, prefix: Sequence[str] = (), **environment: str
) -> subprocess.Popen:
    """Start a script as a process of its own; ``communicate()`` gives its text output."""
    return subprocess.Popen(
        [sys.executable, *prefix, str(ROOT / f"{name}.py"), *map(str, argv)],
        text=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )


def nudge_zeros(module: nn.Module) -> nn.Module:
    """Give the parameters that start at zero small random values: behind zeros nothing has a gradient or an
    effect.
    """
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module


def clone_checkpoint(source: Path, run: Path) -> Path:
    """A run folder that holds a copy of one checkpoint, and no more: as if the run had been stopped there."""
    from shutil import copytree

    copytree(source, run / source.name)
    return run


def assert_equal_files(one: Path, other: Path, names: Sequence[str]) -> None:
    """The safetensors files of these names hold the same tensors in both folders, bit for bit."""
    from safetensors.torch import load_file

    for name in names:
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == []


def assert_equal_states(one: Path, other: Path) -> None:
    """Two checkpoints have the same averaged and raw weights, optimiser moments and settings."""
    state = "training_state/state.json"
    assert_equal_files(
        one,
        other,
        (
            "unet.safetensors",
            "training_state/raw_weights.safetensors",
            "training_state/optimizer.safetensors",
        ),
    )
    assert (one / state).read_text() == (other / state).read_text()


def draw_word(
    text: str, *, font_size: int = 32, ink: int = 30, paper: int = 255, margin: int = 6
) -> np.ndarray:
    """``text`` in dark ink on light paper, (H, W) uint8, as wide as the text."""
    font = ImageFont.load_default(size=font_size)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), paper)
    ImageDraw.Draw(picture).text((margin - left, margin - top), text, fill=ink, font=font)
    return np.asarray(picture).copy()


def make_word_folder(
    path: Path,
    words: Sequence[str],
    writers: Sequence[str] = ("a", "b"),
    *,
    splits: Sequence[str] = ("train",),
    img_size: tuple[int, int] = (64, 256),
) -> list[TextImage]:
    """Write a complete word folder: word i by writer i and of split i, both modulo their number."""
    (path / IMAGE_FOLDER).mkdir(parents=True)
    records = []
    for i, word in enumerate(words):
        canvas = Image.new("L", img_size[::-1], 255)
        picture = Image.fromarray(draw_word(word, font_size=img_size[0] // 2))
        picture.thumbnail((img_size[1] - 8, img_size[0] - 8))
        canvas.paste(picture, (4, (img_size[0] - picture.height) // 2))
        record = TextImage(
            file_name=f"{IMAGE_FOLDER}/{i:04d}.png",
            text=word,
            writer=writers[i % len(writers)],
            split=splits[i % len(splits)],
        )
        save_image(canvas, path / record.file_name)
        records.append(record)
    write_metadata(path, records)
    return records


def hash_tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by relative path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- IAM ---

IAM_WORDS_HEADER = """#--- words.txt ---------------------------------------------------------------#
#
# iam database word information
#
# format: a01-000u-00-00 ok 154 1 408 768 27 51 AT A
#
#     a01-000u-00-00  -> word id for line 00 in form a01-000u
#     ok              -> result of word segmentation
#                            ok: word was correctly
#                            er: segmentation of word can be bad
#
"""
IAM_ROWS = (
    "a01-000u-00-00 ok 154 408 768 27 51 AT A",
    "a01-000u-00-01 ok 154 507 766 213 48 NN MOVE",
    "a01-000u-00-02 err 154 796 764 70 50 TO to",
    "a01-000u-01-00 ok 156 395 932 441 100 VBG stop",
    "a01-000u-01-01 ok 156 901 958 25 10 . .",
    "a01-000x-00-00 ok 170 408 768 27 51 AT Mr",
    "a01-000x-00-01 ok 170 507 766 213 48 NP M Ps",
    "a01-000x-00-02 ok 170 -1 -1 -1 -1 IN # ",
    "b02-013-00-00 ok 170 408 768 27 51 NPT$ Gait",
    "b02-013-00-01 ok 170 408 768 27 51 - -",
)
IAM_LINE_ROWS = (
    "a01-000u-00 ok 154 19 408 746 1661 89 A|MOVE|to|stop",
    "a01-000u-01 err 156 20 395 932 1850 105 any|more|M Ps|,",
    "a01-000x-00 ok 170 19 -1 -1 -1 -1 #|Mr.|Gaitskell",
    'b02-013-00 ok 170 5 408 768 270 51 "|Gait|"|.',
)
IAM_FORMS = {"a01-000u": "000", "a01-000x": "001", "b02-013": "038"}
IAM_LAYOUTS = {
    "own": ("words", "ascii"),
    "kaggle": ("iam_words/words", "iam_words"),
    "simplehtr": ("img", "gt"),
    "flat": ("", ""),
}


def make_iam(
    root: Path,
    rows: Sequence[str] = IAM_ROWS,
    *,
    layout: str = "own",
    newline: str = "\n",
    writers: str = "forms",
    images: bool = True,
    lines: Sequence[str] = (),
) -> Path:
    """IAM in one of the layouts that users have; ``writers`` is ``forms``, ``xml`` or ``none``; ``lines`` are
    rows of lines.txt, whose images lie below ``lines``.
    """
    image_root, text_root = (root / part for part in IAM_LAYOUTS[layout])
    text_root.mkdir(parents=True, exist_ok=True)
    content = IAM_WORDS_HEADER + "".join(f"{row}\n" for row in rows)
    (text_root / "words.txt").write_bytes(content.replace("\n", newline).encode())
    if lines:
        (text_root / "lines.txt").write_text("# lines\n" + "".join(f"{row}\n" for row in lines))
    if writers == "forms":
        table = "# a01-000u 000 2 prt 7 5 52 36\n" + "".join(
            f"{f} {w} 2 prt 7 5 52 36\n" for f, w in IAM_FORMS.items()
        )
        (text_root / "forms.txt").write_bytes(table.replace("\n", newline).encode())
    elif writers == "xml":
        (root / "xml").mkdir(parents=True)
        for form, writer in IAM_FORMS.items():
            (root / "xml" / f"{form}.xml").write_text(
                f'<?xml version="1.0" encoding="ISO-8859-1"?>\n<form created="é" id="{form}"'
                f' writer-id="{writer}"><handwritten-part/></form>',
                encoding="iso-8859-1",
            )
    for row in rows if images else ():
        word_id, *_, text = row.split(" ", 8)
        form = "-".join(word_id.split("-")[:2])
        path = image_root / form[:3] / form / f"{word_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_word(text.strip())).save(path)
    for row in lines if images else ():
        line_id, *_, text = row.split(" ", 8)
        form = "-".join(line_id.split("-")[:2])
        path = root / "lines" / form[:3] / form / f"{line_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_word(text.replace("|", " "), font_size=80)).save(path)
    return root


# --- George Washington ---

GW_ROWS = (
    "270-01-01 s_2-s_7-s_0-s_pt",
    "270-01-02 L-e-t-t-e-r-s-s_cm",
    "270-01-03 O-r-d-e-r-s",
    "270-03-01 p-a-r-t-i-c-u-s_mi",
    "270-03-02 l-a-r",
    "271-01-01 s_GW",
    "271-01-02 s_1st",
    "271-01-03 s_et-c-s_pt",
    "272-01-01 A-s_s-s_s-i-g-n",
)
GW_SETS = {"train": ("270-01", "271-01"), "valid": ("270-03",), "test": ("272-01",), "keywords": ("l-a-r",)}


def make_gw(
    root: Path, rows: Sequence[str] = GW_ROWS, *, sets: Mapping[str, Sequence[str]] | None = GW_SETS
) -> Path:
    """washingtondb-v1.0: bilevel word images, labels of words and of lines, fold cv1 (none if ``sets`` is
    None).
    """
    base = root / "washingtondb-v1.0"
    for folder in ("data/word_images_normalized", "data/line_images_normalized", "ground_truth", "sets/cv1"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    (base / "ground_truth/word_labels.txt").write_text("".join(f"{row}\n" for row in rows))
    lines: dict[str, list[str]] = {}
    for row in rows:
        word_id, spelling = row.split(" ")
        lines.setdefault(word_id[:6], []).append(spelling)
        word = Image.fromarray(draw_word(spelling.replace("s_", "").replace("-", "")[:8]))
        word.convert("1").save(base / "data/word_images_normalized" / f"{word_id}.png")
    (base / "ground_truth/transcription.txt").write_text(
        "".join(f"{line_id} {'|'.join(words)}\n" for line_id, words in lines.items())
    )
    for line_id, words in lines.items():
        line = Image.fromarray(draw_word(" ".join(words).replace("s_", "").replace("-", ""), font_size=90))
        line.convert("1").save(base / "data/line_images_normalized" / f"{line_id}.png")
    if sets is None:
        (base / "sets/cv1").rmdir()
        (base / "sets").rmdir()
    for name, ids in (sets or {}).items():
        (base / f"sets/cv1/{name}.txt").write_text("".join(f"{i}\n" for i in ids))
    return root


# --- IMGUR5K ---

IMGUR5K_PAGES = {
    "aBcDe12": (
        "train",
        [
            ("Hello", "[80.0, 50.0, 110.0, 44.0, 0.0]"),
            ("world", "[80.0, 120.0, 110.0, 44.0, 0.0]"),
            (".", "[20, 20, 10, 10, 0]"),
            ("", "[20, 20, 10, 10, 0]"),
        ],
    ),
    "XyZ9876": ("val", [("green", "[80.0, 50.0, 110.0, 44.0, -30.0]")]),
    "q1W2e": (
        "test",
        [
            ("Étude", "[80.0, 50.0, 44.0, 110.0, 90.0]"),
            ("flat", "[80, 50, 110, 0.4, 0]"),
            ("odd", "[80, 50, 110]"),
            ("far", "[80, 50, 1e9, 44, 0]"),
        ],
    ),
}


def draw_page(texts: Sequence[str], *, seed: int = 0) -> Image.Image:
    """A 200x160 RGB page with up to two words, centred on (80, 50) and (80, 120) in pixels."""
    page = np.random.default_rng(seed).integers(235, 256, (160, 200, 3), dtype=np.uint8)
    for text, y in zip(texts, (50, 120), strict=False):
        word = draw_word(text, font_size=28)[:44, :110]
        top, left = y - word.shape[0] // 2, 80 - word.shape[1] // 2
        part = page[top : top + word.shape[0], left : left + word.shape[1]]
        np.minimum(part, word[:, :, None], out=part)
    return Image.fromarray(page)


def make_imgur5k(
    root: Path,
    pages: Mapping[str, tuple[str, list]] = IMGUR5K_PAGES,
    *,
    files: Sequence[str] = ("whole", "lists", "hashes"),
) -> Path:
    """IMGUR5K as its downloader leaves it; ``files`` of whole, splits (json), data, lists, hashes (lst).

    Pages whose names differ have different contents, and so different MD5 sums.
    """
    info, images = root / "dataset_info", root / "images"
    info.mkdir(parents=True)
    images.mkdir()
    hashes = {}
    for seed, (page, (_, words)) in enumerate(pages.items()):
        draw_page([text for text, _ in words if len(text) > 1], seed=seed).save(
            images / f"{page}.jpg", quality=95
        )
        hashes[page] = hashlib.md5((images / f"{page}.jpg").read_bytes()).hexdigest()

    def as_json(chosen: Sequence[str]) -> str:
        ids = {page: [f"{page}_{i}" for i in range(len(pages[page][1]))] for page in chosen}
        words = {i: w for page in chosen for i, w in zip(ids[page], pages[page][1], strict=True)}
        return json.dumps(
            {
                "index_id": {
                    p: {
                        "image_url": f"https://i.imgur.com/{p}.jpg",
                        "image_path": f"images/{p}.jpg",
                        "image_hash": hashes[p],
                    }
                    for p in chosen
                },
                "index_to_ann_map": ids,
                "ann_id": {i: {"word": text, "bounding_box": box} for i, (text, box) in words.items()},
            },
            indent=4,
        )

    if "whole" in files:
        (info / "imgur5k_annotations.json").write_text(as_json(list(pages)))
    for split in ("train", "val", "test"):
        chosen = [page for page, (of, _) in pages.items() if split in of.split("+")]
        if "splits" in files:
            (info / f"imgur5k_annotations_{split}.json").write_text(as_json(chosen))
        if "lists" in files:
            extra = ["null"] if split == "train" else []
            (info / f"{split}_index_ids.lst").write_text("".join(f"{page}\n" for page in chosen + extra))
    if "hashes" in files:
        (info / "imgur5k_hashes.lst").write_text("".join(f"{page}\t{md5}\n" for page, md5 in hashes.items()))
    if "data" in files:
        rows = [
            f"https://i.imgur.com/{p}.jpg\t{box}\t{text}\n"
            for p, (_, words) in pages.items()
            for text, box in words
        ]
        (info / "imgur5k_data.lst").write_text("".join(rows), encoding="utf-8")
    return root
