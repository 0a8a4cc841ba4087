"""Splits by whole pages: what a page says, and what several hands copied, is on one side alone."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

from preprocessing.raw_word import RawWord

PHRASE = 5  # words in a row; what two pages share of these is a copied text, not chance
COPIED = 0.5  # share of the longer text's phrases that a copy of it has
COPYISTS_PAGE = 0.1  # of the shorter page's, where one writer has copied from the other
COMMONPLACE = 400  # pages; a phrase on more is a form's own text


def split_by_page(
    words: Sequence[RawWord], val_fraction: float, test_fraction: float, unseen_writers: float
) -> list[RawWord]:
    """Give each line of a collection of pages its split, the same on every machine.

    Whole hands go to ``test`` first (``unseen_writers``, their share of all), then whole pages of the others,
    as long as a page of each hand stays in ``train``. Where each hand has one page, the pages for ``test``
    and ``val`` are hands of their own. Pages with one text stay together, whoever wrote them (unless more
    than half of all pages have it). The order is that of the pages' SHA-256.

    Args:
        words: lines with a ``page``.
        val_fraction, test_fraction: share of the lines.
    """
    sizes = Counter(word.page for word in words)
    writer_of = {word.page: word.writer for word in words}
    groups = _texts_of_pages(words)
    unseen = set(choose_writers(writer_of.values(), unseen_writers))
    held_out = [group for group in groups if any(writer_of[page] in unseen for page in group)]
    splits = dict.fromkeys(sizes, "train") | {page: "test" for group in held_out for page in group}
    rest = [group for group in groups if group not in held_out]
    lines = sum(sizes[page] for group in rest for page in group)
    for split, fraction in (("test", test_fraction), ("val", val_fraction)):
        chosen = _choose(rest, sizes, writer_of, fraction * lines)
        if not chosen and not (unseen and split == "test"):
            chosen = _choose(rest, sizes, {}, fraction * lines)
        splits |= {page: split for group in chosen for page in group}
        rest = [group for group in rest if group not in chosen]
    return [replace(word, split=splits[word.page]) for word in words]


def choose_writers(writers: Iterable[str], share: float) -> list[str]:
    """A share of all writers, at least one where the share is above 0 and never all, in the order of their
    SHA-256.
    """
    ordered = sorted(set(writers), key=_digest)
    count = min(max(1, round(share * len(ordered))), len(ordered) - 1) if share > 0 else 0
    return ordered[:count]


def _choose(
    groups: Sequence[list[str]], sizes: Counter, writer_of: dict[str, str], wanted: float
) -> list[list[str]]:
    """Groups of pages, one by one, until they have about as many lines as wanted.

    Each writer in ``writer_of`` keeps a page; something is left in any case.
    """
    pages_left = Counter(writer_of.get(page) for group in groups for page in group)
    chosen: list[list[str]] = []
    total = 0
    for group in groups:
        size = sum(sizes[page] for page in group)
        taken = Counter(writer_of.get(page) for page in group)
        # The last one is taken if that comes nearer to what is wanted than leaving it.
        if total + size / 2 <= wanted and all(pages_left[writer] > count for writer, count in taken.items()):
            chosen.append(group)
            total += size
            pages_left -= taken
    return chosen


def _texts_of_pages(words: Sequence[RawWord]) -> list[list[str]]:
    """The pages in groups of one text each, in a fixed order.

    Two pages have one text if they share half of the longer one's phrases. Copyists turn the page at
    different places: where two writers share half of all they wrote, a tenth of the shorter page's phrases
    is enough.
    """
    texts: dict[str, list[str]] = defaultdict(list)
    for word in words:
        texts[word.page] += re.findall(r"\w+", word.text.lower())
    writer_of = {word.page: word.writer for word in words}
    phrases = {
        page: {tuple(t[i : i + PHRASE]) for i in range(len(t) - PHRASE + 1)} for page, t in texts.items()
    }
    by_writer: dict[str, set] = defaultdict(set)
    for page, own in phrases.items():
        by_writer[writer_of[page]] |= own
    copyists = {
        frozenset(pair)
        for pair, count in _shared(by_writer).items()
        if count >= COPIED * max(len(by_writer[name]) for name in pair)
    }
    group_of = {page: [page] for page in texts}
    for (a, b), count in _shared(phrases).items():
        lengths = sorted((len(phrases[a]), len(phrases[b])))
        are_copyists = {writer_of[a], writer_of[b]} in copyists
        is_same = count >= (COPYISTS_PAGE * lengths[0] if are_copyists else COPIED * lengths[1])
        if is_same and group_of[a] is not group_of[b]:
            group_of[a] += group_of[b]
            group_of.update(dict.fromkeys(group_of[b], group_of[a]))
    unique = {id(group): sorted(group, key=_digest) for group in group_of.values()}.values()
    # A text that most pages have can't be kept on one side.
    groups = [part for g in unique for part in ([g] if 2 * len(g) <= len(texts) else [[page] for page in g])]
    return sorted(groups, key=lambda group: _digest(group[0]))


def _shared(phrases: dict[str, set]) -> Counter:
    """How many phrases each two of the sets share, by their names' pair; pairs without any lack."""
    names_of: dict[tuple, list[str]] = defaultdict(list)
    for name, own in phrases.items():
        for phrase in own:
            names_of[phrase].append(name)
    shared: Counter = Counter()
    for names in names_of.values():
        if 1 < len(names) <= COMMONPLACE:
            shared.update(combinations(names, 2))
    return shared


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
