"""PAGE and ALTO files as one description of a page."""

import pytest

from preprocessing.readers.page_xml import PageFileError, page_format, read_page
from tests.preprocessing.page_files import alto, line_of, page_xml

BILLION_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE alto [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
    '<alto><Layout><Page><TextLine ID="&b;"/></Page></Layout></alto>'
)
FOREIGN_FILE = (
    '<?xml version="1.0"?><!DOCTYPE PcGts [<!ENTITY x SYSTEM "file:///etc/hostname">]>'
    '<PcGts><Page imageFilename="a.png"><TextLine id="l"><TextEquiv><Unicode>&x;</Unicode></TextEquiv>'
    "</TextLine></Page></PcGts>"
)


def read(tmp_path, text):
    path = tmp_path / "page.xml"
    path.write_text(text, encoding="utf-8")
    return read_page(path)


@pytest.mark.parametrize(
    "text",
    [
        alto([line_of(0, "one two")], "x.jpg"),
        alto([line_of(0, "one two")], "x.jpg", namespace="http://www.loc.gov/standards/alto/ns-v2#"),
        alto([line_of(0, "one two")], "x.jpg", namespace=None),
        page_xml([line_of(0, "one two")], "x.jpg"),
        page_xml(
            [line_of(0, "one two")],
            "x.jpg",
            namespace="http://schema.primaresearch.org/PAGE/gts/pagecontent/2013-07-15",
        ),
    ],
)
def test_both_formats_and_all_their_years_say_the_same(tmp_path, text):
    page = read(tmp_path, text)
    assert (page.image_name, page.width, page.height) == ("x.jpg", 900, 640)
    line, expected = page.lines[0], line_of(0, "one two")
    assert (line.line_id, line.text) == ("l0", "one two") and not line.is_struck_out
    assert list(line.polygon) == expected["polygon"] and list(line.baseline) == expected["baseline"]


def test_the_best_ranked_text_of_a_line_counts_and_not_its_words(tmp_path):
    word = '<Word id="w"><Coords points="1,1 9,1 9,9"/><TextEquiv><Unicode>word</Unicode></TextEquiv></Word>'
    texts = "".join(
        f'<TextEquiv index="{index}"><Unicode>{text}</Unicode></TextEquiv>'
        for index, text in ((2, "two"), (1, "one"))
    )
    line = {"id": "l", "polygon": [(0, 0), (9, 0), (9, 9)], "inside": word + texts}
    assert read(tmp_path, page_xml([line], "x.png")).lines[0].text == "one"
    line["inside"] = word + word
    assert read(tmp_path, page_xml([line], "x.png")).lines[0].text == "word word"


def test_page_points_of_2009_are_elements(tmp_path):
    points = "".join(f'<Point x="{x}" y="{y}"/>' for x, y in ((1, 2), (9, 2), (9, 8)))
    line = {"id": "l", "text": "a", "inside": f"<Coords>{points}</Coords>"}
    assert read(tmp_path, page_xml([line], "x.png")).lines[0].polygon == ((1, 2), (9, 2), (9, 8))


def test_alto_strings_are_joined_by_spaces_and_hyphens_to_their_word(tmp_path):
    text = alto([line_of(0, "", strings=[("a", (0, 0, 9, 9)), ("b", (10, 0, 9, 9))])], "x.png")
    line = read(tmp_path, text).lines[0]
    assert line.text == "a b" and [word.text for word in line.words] == ["a", "b"]
    assert line.words[1].polygon == ((10, 0), (19, 0), (19, 9), (10, 9))
    hyphen = text.replace('<String CONTENT="b"', '<HYP CONTENT="-"/><String CONTENT="b"')
    assert (
        read(tmp_path, text.replace("</TextLine>", '<HYP CONTENT="-"/></TextLine>')).lines[0].text == "a b-"
    )
    assert read(tmp_path, text.replace("<SP/>", "")).lines[0].text == "a b"
    assert read(tmp_path, hyphen).lines[0].words[1].text == "b"


def test_a_baseline_of_one_number_is_a_height(tmp_path):
    line = read(tmp_path, alto([line_of(0, "a", baseline="110")], "x.png")).lines[0]
    assert [y for _, y in line.baseline] == [110, 110]


@pytest.mark.parametrize("text", ["a >b< c", "><", "a <> b", ">"])
def test_struck_out_text_is_known_by_its_marks(tmp_path, text):
    assert read(tmp_path, alto([line_of(0, text)], "x.png")).lines[0].is_struck_out


@pytest.mark.parametrize("text", ["s > 1", "c < 0", "a < b > c"])
def test_a_sign_of_mathematics_strikes_nothing_out(tmp_path, text):
    assert not read(tmp_path, alto([line_of(0, text)], "x.png")).lines[0].is_struck_out


def test_struck_out_text_is_known_by_its_style(tmp_path):
    style = "readingOrder {index:3;} textStyle {offset:3; length:4; strikethrough:true;}"
    assert read(tmp_path, page_xml([line_of(0, "abc", custom=style)], "x.png")).lines[0].is_struck_out


def test_points_that_are_no_numbers_are_no_points(tmp_path):
    lines = [line_of(0, "a", polygon=[("x", 1), (2, 3), (4, 5)]), line_of(1, "b", polygon=[(1, 1), (2, 2)])]
    lines.append(line_of(2, "c", polygon=[("nan", 1), (2, 3), (4, 5)], baseline=[(1, 1), (1, 1)]))
    page = read(tmp_path, page_xml(lines, "x.png"))
    assert [line.polygon for line in page.lines] == [()] * 3 and page.lines[2].baseline == ()


@pytest.mark.parametrize(
    "text",
    [
        BILLION_LAUGHS,
        FOREIGN_FILE,
        "<alto><Layout>",
        "",
        "<html><Page/></html>",
        "<alto/>",
        '<?xml version="1.0" encoding="no-such"?><alto><Page/></alto>',
    ],
)
def test_entities_and_broken_files_are_refused(tmp_path, text):
    with pytest.raises(PageFileError):
        read(tmp_path, text)


def test_a_format_is_known_by_the_first_element(tmp_path):
    path = tmp_path / "page.xml"
    for text, kind in (
        (alto([], "x"), "ALTO"),
        (page_xml([], "x"), "PAGE"),
        ("<pc:PcGts xmlns:pc='x'/>", "PAGE"),
        ("<form/>", None),
        ("", None),
    ):
        path.write_text(text)
        assert page_format(path) == kind
