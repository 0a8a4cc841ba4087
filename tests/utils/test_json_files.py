"""JSON files: read and checked, with messages that name the file and the entry."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from utils.json_files import fill_dataclass, read_json


@dataclass(frozen=True, kw_only=True)
class Sizes:
    steps: int
    rate: float = 0.5
    name: str | None = None
    pair: tuple[int, int] = (1, 1)
    widths: Mapping[str, float] | None = None

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps {self.steps}: at least 1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged, not JSON"),
        (b'{"a": ', "damaged, not JSON"),
        (b"\xff\xfe", "damaged, not JSON"),
        (b"[" * 100_000, "damaged, not JSON .nested too deeply"),
        (b"[]", "holds list, not an object"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"--flag: .*a\.json: {message}"):
        read_json(tmp_path / "a.json", "--flag")


def test_a_list_may_be_asked_for(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    assert read_json(tmp_path / "a.json", kind=list) == [1]


def test_values_of_json_fill_a_dataclass():
    sizes = fill_dataclass(Sizes, {"steps": 2, "rate": 1, "pair": [3, 4], "widths": {"a": 7}}, "a.json")
    assert sizes == Sizes(steps=2, rate=1, pair=[3, 4], widths={"a": 7})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no entry steps"),
        ([], r"\[\] is not an object"),
        ({"steps": 1, "new": 2}, "unknown entries new: written by a newer version"),
        ({"steps": "1"}, "steps '1' is not a whole number"),
        ({"steps": True}, "steps True is not a whole number"),
        ({"steps": 1.5}, "steps 1.5 is not a whole number"),
        ({"steps": 1, "rate": float("nan")}, "rate nan is not a number"),
        ({"steps": 1, "name": 3}, "name 3 is not"),
        ({"steps": 1, "pair": [1]}, r"pair \[1\] is not"),
        ({"steps": 1, "pair": [1, "2"]}, "pair"),
        ({"steps": 1, "widths": {"a": "b"}}, "widths"),
        ({"steps": 0}, "steps 0: at least 1"),
    ],
)
def test_a_wrong_value_is_named(values, message):
    with pytest.raises(ValueError, match=rf"a\.json: {message}"):
        fill_dataclass(Sizes, values, "a.json")


def test_entries_of_other_versions_may_be_left_out():
    assert fill_dataclass(Sizes, {"steps": 1, "old": 2}, "a.json", drop_unknown=True) == Sizes(steps=1)
