"""Sheets: what can't be written is said, lines come one by one, and the sheet is kept in three ways."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from generation.sampling import SamplingSettings
from generation.sheet import MOST_CHARACTERS, MOST_LINES, draw_sheet, find_faults, plan_sheet
from utils.errors import UserError
from utils.text_images import read_text_images

SETTINGS = SamplingSettings(num_steps=1, redraws=0, variation=0.0)


@pytest.fixture(scope="module")
def sheet(styled_pipeline):
    jobs = plan_sheet("cab bad\nface", styled_pipeline, "01", seed=0)
    return list(draw_sheet(styled_pipeline, jobs, SETTINGS))[-1]


def test_characters_that_the_model_lacks_are_named(pipeline):
    assert find_faults("cab\nbad face", pipeline) == []
    assert find_faults(" \n", pipeline) == ["There is nothing to write yet."]
    assert find_faults("cab 7é7", pipeline) == ["The model has no letter for: 7  é"]
    assert "“deadfaced…” has 9 characters" in find_faults("deadfaced", pipeline)[0]
    assert "a sheet takes" in find_faults("a " * MOST_CHARACTERS, pipeline)[0]


def test_too_many_lines_and_unknown_hands_are_refused(pipeline):
    with pytest.raises(UserError, match=f"{MOST_LINES + 1} lines"):
        plan_sheet("cab\n" * (MOST_LINES + 1), pipeline, "01", seed=0)
    with pytest.raises(UserError, match="anna"):
        plan_sheet("cab", pipeline, "anna", seed=0)


def test_lines_come_one_by_one_in_their_order(styled_pipeline):
    jobs = plan_sheet("cab\nbad\nace", styled_pipeline, {"01": 0.5, "02": 0.5}, seed=0)
    sheets = list(draw_sheet(styled_pipeline, jobs, SETTINGS))
    assert [sheet.texts for sheet in sheets] == [["cab"], ["cab", "bad"], ["cab", "bad", "ace"]]
    assert all(a is b for a, b in zip(sheets[0].images, sheets[2].images, strict=False))


def test_a_first_line_that_cant_be_read_is_drawn_again_at_the_end(styled_pipeline):
    jobs = plan_sheet("cab\nbad", styled_pipeline, "01", seed=0)
    drawn = list(
        draw_sheet(styled_pipeline, jobs, replace(SETTINGS, redraws=None))
    )  # random weights: illegible
    assert [len(sheet.images) for sheet in drawn] == [1, 2, 2]
    assert drawn[1].images[1] is drawn[2].images[1]


def test_the_picture_holds_all_lines(sheet):
    picture = np.asarray(Image.open(io.BytesIO(sheet.as_png())))
    height = sheet.images[0].shape[0]
    assert picture.shape[0] == height * 2 + 2 * (height // 2)
    for number, image in enumerate(sheet.images):
        top = height // 2 + number * height
        assert np.array_equal(picture[top : top + height, height // 2 :][:, : image.shape[1]], image)


def unzip(content, folder):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_text_images_are_a_folder_that_can_be_trained_on(sheet, tmp_path):
    unzip(sheet.as_text_images(), tmp_path)
    records = read_text_images(tmp_path)
    assert [(record.text, record.writer) for record in records] == [("cab bad", "01"), ("face", "01")]
    for record, image in zip(records, sheet.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / record.file_name)), image)


def test_a_page_has_page_beside_it(sheet, tmp_path):
    names = unzip(sheet.as_pages(), tmp_path)
    assert names == ["page-000000.png", "page-000000.xml", "pages.jsonl", "writers.csv"]
    text = (tmp_path / "page-000000.xml").read_text(encoding="utf-8")
    assert "pagecontent/2019-07-15" in text and "cab bad" in text and "face" in text


def test_the_same_sheet_is_the_same_file(sheet):
    assert sheet.as_pages() == sheet.as_pages() and sheet.as_text_images() == sheet.as_text_images()
