"""Made-up data for the fault campaign, and harm done to pictures, tables and checkpoints."""

import io
import os
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WORDS = ("cab", "abe", "deaf", "bad", "ace", "face", "dab", "fed", "bead", "cafe", "deed", "fade")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "PCX", "ICO", "JPEG2000", "DDS", "AVIF")
# What breaks readers of text: marks, ends, signs that are not there, numbers that are none.
SNIPPETS = (
    *(b'"', b'",', b'""', b"\n", b"\r", b"\r\n", b",", b";", b"\t", b"|", b"\0", b"{", b"}", b"[" * 3000),
    *(b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\xe2\x80\x8b", b"\xef\xbf\xbd"),
    *(b"null", b"NaN", b"1e999", b"-1", b"9" * 5000, b"../" * 5, b"/etc/passwd", b"x" * 200_000),
)


def make_raw_data(folder: Path) -> None:
    """Pictures of words by three writers, and a table that describes them."""
    folder.mkdir(parents=True)
    rows = ["file_name,text,writer"]
    for number, word in enumerate(WORDS * 2):
        font = ImageFont.load_default(size=32)
        left, top, right, bottom = font.getbbox(word)
        picture = Image.new("L", (int(right - left) + 16, int(bottom - top) + 16), 250)
        ImageDraw.Draw(picture).text((8 - left, 8 - top), word, fill=30, font=font)
        picture.save(folder / f"{number:02d}.png")
        rows.append(f"{number:02d}.png,{word},w{number % 3}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file anew: the old one is linked from elsewhere."""
    path.unlink()
    path.write_bytes(content)


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Cut off, flip bits, overwrite, repeat or remove a stretch."""
    data = bytearray(content)
    start = rng.randrange(len(data) + 1)
    length = rng.choice((1, 4, 64, 1000))
    kind = rng.choice(("cut", "flip", "flip", "overwrite", "repeat", "remove", "empty"))
    if kind == "cut":
        del data[start:]
    elif kind == "flip":
        for _ in range(length):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "overwrite":
        data[start : start + length] = rng.randbytes(length)
    elif kind == "repeat":
        data[start:start] = data[start : start + length]
    elif kind == "remove":
        del data[start : start + length]
    else:
        data.clear()
    return bytes(data)


def strange_picture(content: bytes, rng: random.Random) -> bytes:
    """A picture in another format or of another kind, whole or damaged; or a bomb."""
    image = Image.open(io.BytesIO(content)).convert("L")
    kind = rng.choice((*FORMATS, "bomb", "flat", "thin", "deep"))
    if kind == "bomb":
        image = Image.new("1", (20_000, 20_000))
    elif kind == "flat":
        image = Image.new("L", image.size, rng.choice((0, 128, 255)))
    elif kind == "thin":
        image = image.resize(rng.choice(((1, 1), (1, 900), (900, 1), (2, 3), (4000, 2))))
    elif kind == "deep":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    file = io.BytesIO()
    options = {}
    if kind == "JPEG":
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "x" * 50
        options["exif"] = exif
    try:
        image.save(file, format=kind if kind in FORMATS else "PNG", **options)
    except (OSError, KeyError, ValueError):  # a format that this Pillow can't write
        return content
    return file.getvalue()


def damage_pictures(folder: Path, rng: random.Random) -> str:
    """Half of the pictures are damaged, in other formats, of strange kinds, or pipes."""
    paths = sorted(path for path in folder.iterdir() if path.suffix == ".png")
    for path in rng.sample(paths, rng.choice((1, len(paths) // 2))):
        content = path.read_bytes()
        if rng.random() < 0.05:
            path.unlink()
            os.mkfifo(path)
            continue
        if rng.random() < 0.5:
            content = strange_picture(content, rng)
        if rng.random() < 0.7:
            content = damage_bytes(content, rng)
        replace_file(path, content)
    return "damaged pictures"


def damage_table(path: Path, rng: random.Random) -> str:
    """Bytes of a table are changed, or snippets put in that break readers."""
    content = path.read_bytes()
    shown = []
    for _ in range(rng.choice((1, 1, 3))):
        if rng.random() < 0.2:
            content = damage_bytes(content, rng)
            shown.append("bytes")
            continue
        snippet, start = rng.choice(SNIPPETS), rng.randrange(len(content) + 1)
        content = content[:start] + snippet + content[start + rng.choice((0, 0, len(snippet))) :]
        shown.append(f"{snippet[:12]!r} at {start}")
    replace_file(path, content)
    return f"{path.name} with {', '.join(shown)}"


def damage_checkpoint(folder: Path, rng: random.Random) -> str:
    """One file of a checkpoint is damaged or gone."""
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".safetensors")))
    name = path.relative_to(folder).as_posix()
    if rng.random() < 0.1:
        path.unlink()
        return f"{name} missing"
    if path.suffix == ".json" and rng.random() < 0.7:
        return damage_table(path, rng)
    content = path.read_bytes()
    # The header says most; bits of the weights only make other weights.
    head = content[:4000] if rng.random() < 0.7 else content
    replace_file(path, damage_bytes(head, rng) + content[len(head) :])
    return f"{name} with changed bytes"
