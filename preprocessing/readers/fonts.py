"""Reader that draws its own data set: texts in handwriting fonts, no two drawn alike.

A font cut (a light or bold file, a weight of a variable font) is a writer. Without a folder the fonts are
installed ``fontpkg-*`` families, all with an open licence (OFL 1.1; Satisfy and Yellowtail: Apache 2.0). The
texts come from ``word_list``, or from a file. Held-out texts are fixed by their hash: the same on every
machine, for every seed.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import numpy as np
from PIL import ImageFont

from preprocessing.raw_word import DroppedWord, RawWord
from preprocessing.readers.font_drawing import FONT_SIZE, FontDrawing, FontLine, draw_plain, open_font
from preprocessing.readers.font_texts import TextSource, split_of
from preprocessing.readers.line_texts import LineSource, corpus_lines, split_of_line
from utils.charset import read_texts
from utils.errors import UserError
from utils.vocabulary import shuffled_forever

FAMILIES = (
    "caveat",
    "dancing-script",
    "delius",
    "great-vibes",
    "indie-flower",
    "kalam",
    "satisfy",
    "shadows-into-light",
    "yellowtail",
    "zeyada",
)
FONT_SUFFIXES = (".ttf", ".otf", ".woff2")
MOST_WORDS = 10_000_000
LONGEST_LINE = 100  # characters; a line of a --words_file that is longer is dropped (length)
# Letters whose capital has another shape. A font where these pairs look alike is written in capitals only.
_TELLING_LETTERS = "abdefghnqrt"
_SHOUTING = re.compile(r"[^\W\d_a-zäöüß]{2}")
_NO_CHARACTER = "\U0010fffe"  # assigned to nothing, so a font draws its sign for a missing glyph


@dataclass(frozen=True, kw_only=True)
class FontCut:
    """One writer: a font file at fixed variation axes (in the file's order; empty for a static font).

    ``is_caps_only``: small letters look like capitals, so texts are upper-cased before they are drawn.
    """

    name: str
    path: Path
    axes: tuple[float, ...] = ()
    is_caps_only: bool = False


def recognises(dataset_path: Path) -> bool:
    """True if the folder itself holds a .ttf, .otf or .woff2 file."""
    return any(p.suffix.lower() in FONT_SUFFIXES for p in dataset_path.glob("*"))


def iter_words(
    dataset_path: Path | None,
    *,
    unit: str = "word",
    num_words: int = 10_000,
    words_file: Path | None = None,
    fonts: Sequence[str] | None = None,
    seed: int = 0,
) -> Iterator[RawWord | DroppedWord]:
    """Yield ``num_words`` texts with their splits (5 % val, 5 % test), as many of each cut as can be. A
    text with a character that a cut lacks goes to another cut, and is dropped (``charset``) where no cut
    has all of it. More texts with the same seed begin with the same ones.

    Args:
        dataset_path: a folder of font files (also in sub-folders); None for the installed families.
        unit: ``word``, or ``line``: whole lines on a level baseline, at the font's own size.
        num_words: how many texts, over all cuts.
        words_file: in place of the built-in texts: one text a line; for lines running text, which is broken
            as ``corpus_lines`` does, and split by whole lines.
        fonts: names of cuts (``kalam-light``) or families (``kalam``), or None for all; with no folder also
            of any other installed fontpkg family.
        seed: random seed of the texts and of how they are drawn.
    Raises:
        FileNotFoundError: if there is no font, or a package is missing.
        UserError: if ``fonts`` names a cut that is not there, or a number is too small or large.
    """
    if not 1 <= num_words <= MOST_WORDS:
        raise UserError(f"--num_words {num_words}: from 1 to {MOST_WORDS:,}")
    if seed < 0:
        raise UserError(f"--seed {seed}: at least 0")
    cuts = choose_cuts(find_cuts(font_files(dataset_path, fonts)), fonts)
    if words_file:
        texts = corpus_lines(words_file) if unit == "line" else list(dict.fromkeys(read_texts(words_file)))
        texts = shuffled_forever(texts, seed)
    else:
        texts = iter(LineSource(seed) if unit == "line" else TextSource(seed))
    written: Counter = Counter()
    for index, text in zip(range(num_words), texts, strict=False):
        if len(text) > LONGEST_LINE:
            yield DroppedWord(source_id=f"{index:06d}", reason="length")
            continue
        by_use = sorted(cuts, key=lambda cut: written[cut.name])
        cut = next((cut for cut in by_use if can_write(cut, text)), None)
        if cut is None:
            yield DroppedWord(source_id=f"{index:06d}", reason="charset")
            continue
        written[cut.name] += 1
        label = text.upper() if cut.is_caps_only else text
        drawing = {"path": cut.path, "axes": cut.axes, "text": label, "seed": (seed, index)}
        yield RawWord(
            image=FontLine(**drawing, is_caps_only=cut.is_caps_only)
            if unit == "line"
            else FontDrawing(**drawing),
            text=label,
            writer=cut.name,
            split=split_of_line(label) if unit == "line" and words_file else split_of(label),
            source_id=f"{cut.name}-{index:06d}",
            sources=(cut.path, words_file) if words_file else (cut.path,),
        )


def font_files(folder: Path | None, fonts: Sequence[str] | None = None) -> list[Path]:
    """The font files of a folder, or of the installed families (of the named ones if names are given).

    Raises:
        FileNotFoundError: if the folder holds none, or a family is not installed.
    """
    if folder is not None:
        files = [p for p in folder.rglob("*") if p.suffix.lower() in FONT_SUFFIXES and p.is_file()]
        if not files:
            raise FileNotFoundError(f"--dataset_path {folder}: no {', '.join(FONT_SUFFIXES)} file in it")
        # The same cut may lie there in two formats: the first one named wins.
        return sorted(files, key=lambda p: (FONT_SUFFIXES.index(p.suffix.lower()), p))
    try:
        import fontpkg

        installed = fontpkg.families()
    except ImportError:
        installed = {}
    others = [name for name in installed if name not in FAMILIES]
    wanted = (
        [f for f in (*FAMILIES, *others) if any(_is_of_family(_slug(name), f) for name in fonts)]
        if fonts
        else FAMILIES
    )
    missing = [family for family in wanted if family not in installed]
    missing += [
        _slug(name)
        for name in fonts or ()
        if not any(_is_of_family(_slug(name), family) for family in wanted)
    ]
    if missing:
        raise FileNotFoundError(
            f"--dataset fonts: not installed: {', '.join(missing)}. Run "
            f"`pip install {' '.join(f'fontpkg-{family}' for family in missing)}`, name other ones "
            "with --fonts, or a folder of font files with --dataset_path."
        )
    return sorted(Path(file.path) for family in wanted for file in installed[family].files)


def find_cuts(files: Sequence[Path]) -> list[FontCut]:
    """The cuts in font files, by name; a file that can't be used is named on stderr and left out.

    A variable font gives a cut at the least, the usual and the greatest weight, its other axes at their
    defaults.
    """
    cuts: dict[str, FontCut] = {}
    for path in files:
        try:
            of_file = _cuts_of_file(path)
        except Exception as error:  # FreeType's errors on damaged fonts come in many classes
            print(f"warning: {path} can't be opened as a font and is left out ({error})", file=sys.stderr)
            continue
        if not of_file:
            print(f"warning: {path} has no Latin letters and is left out", file=sys.stderr)
        for cut in of_file:
            cuts.setdefault(cut.name, cut)
    return [cuts[name] for name in sorted(cuts)]


def _cuts_of_file(path: Path) -> list[FontCut]:
    """The cuts of one font file; empty if it has no Latin letters."""
    font = ImageFont.truetype(str(path), FONT_SIZE)
    family, style = font.getname()
    weights = _weights(font)
    family = f"{family or path.stem}{' Italic' if weights and 'italic' in (style or '').lower() else ''}"
    variants = [(f"{family} {weight:g}", axes) for weight, axes in weights]
    cuts = []
    for name, axes in variants or [(f"{family} {style or ''}", ())]:
        cut = FontCut(name=_slug(name), path=path.resolve(), axes=axes)
        if not has_glyphs(cut, "AZ"):
            break
        cuts.append(replace(cut, is_caps_only=is_caps_only(cut)))
    return cuts


def choose_cuts(cuts: Sequence[FontCut], names: Sequence[str] | None) -> list[FontCut]:
    """The cuts with these names (a family's name stands for all its cuts), or all.

    Raises:
        ValueError: if there are none, or a name fits none of them; the message lists those there are.
    """
    if not cuts:
        raise UserError("--dataset fonts: none of the font files can be used")
    for name in names or ():
        if not any(_is_of_family(cut.name, _slug(name)) for cut in cuts):
            raise UserError(f"--fonts {name}: no such cut. There are: {', '.join(cut.name for cut in cuts)}")
    return [cut for cut in cuts if not names or any(_is_of_family(cut.name, _slug(name)) for name in names)]


@lru_cache(maxsize=100_000)
def _has_glyph(path: Path, axes: tuple[float, ...], character: str) -> bool:
    """True if the font draws this character: neither nothing, nor the sign that stands for missing ones."""
    font = open_font(path, axes)
    try:
        glyph = font.getmask(character)
    except OSError:  # a damaged font opens, and fails at some of its glyphs
        return False
    return glyph.getbbox() is not None and bytes(glyph) != bytes(font.getmask(_NO_CHARACTER))


def has_glyphs(cut: FontCut, text: str) -> bool:
    """True if the cut can draw every character of a text (of its capitals, for a cut of capitals)."""
    drawn = text.upper() if cut.is_caps_only else text
    return all(_has_glyph(cut.path, cut.axes, character) for character in set(drawn) - {" "})


def can_write(cut: FontCut, text: str) -> bool:
    """True if the cut has the glyphs; of swash capitals no two in a row, since nobody can read them."""
    return has_glyphs(cut, text) and not (_SHOUTING.search(text) and _has_swash_capitals(cut.path, cut.axes))


@lru_cache(maxsize=1000)
def _has_swash_capitals(path: Path, axes: tuple[float, ...]) -> bool:
    """True if capitals are more than twice and a half as wide as small letters (1.2 to 1.8 times is
    usual).
    """
    font = open_font(path, axes)
    return font.getlength(ascii_uppercase) > 2.5 * font.getlength(ascii_lowercase)


def is_caps_only(cut: FontCut) -> bool:
    """True if small letters are drawn as capitals (of any size), or are missing."""
    if not has_glyphs(cut, _TELLING_LETTERS):
        return True
    font = open_font(cut.path, cut.axes)
    # Measured overlaps: 0.9 to 1.0 for a font of capitals, up to 0.6 for any other.
    alike = [_overlap(_glyph(font, c), _glyph(font, c.upper())) > 0.75 for c in _TELLING_LETTERS]
    return sum(alike) > len(alike) / 2


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """(32, 32) bool: a character's ink, scaled to fill the square."""
    picture = draw_plain(font, character, 0, 0)
    return np.asarray(picture.crop(picture.getbbox()).resize((32, 32))) > 127


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max(1, (first | second).sum()))


def _weights(font: ImageFont.FreeTypeFont) -> list[tuple[float, tuple[float, ...]]]:
    """(weight, axes) of a variable font's cuts; empty where the weight does not vary."""
    try:
        axes = font.get_variation_axes()
    except OSError:
        return []
    usual = [float(axis["default"]) for axis in axes]
    names = [bytes(axis["name"] or b"").lower() for axis in axes]
    if b"weight" not in names:
        return []
    index = names.index(b"weight")
    weights = sorted({float(axes[index][key]) for key in ("minimum", "default", "maximum")})
    return [(weight, (*usual[:index], weight, *usual[index + 1 :])) for weight in weights]


def _slug(name: str) -> str:
    """Lower case with dashes, without the usual cut's name: 'Kalam Light' -> kalam-light, 'Zeyada Regular' ->
    zeyada.
    """
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-").removesuffix("-regular")


def _is_of_family(name: str, family: str) -> bool:
    return name == family or name.startswith(f"{family}-")
