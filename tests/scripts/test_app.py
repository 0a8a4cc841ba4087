"""The page in a real browser, which types, chooses, drops a picture, waits, looks and saves; its queue."""

import base64
import io
import json
import shutil
import signal
import socket
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import draw_word, run_script, start_script
from utils.errors import UserError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 120_000  # milliseconds for what takes seconds on an idle machine
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "image/png" }));
  document.querySelector("#drop .drop").dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true }));
}"""


def files_in(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home and a temporary folder of the server's own."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "tmp").mkdir()
    return folder


@pytest.fixture(scope="module")
def server(home):
    """The address of the page, with the model that ships."""
    pytest.importorskip("gradio", reason="gradio is not installed: no page")
    process = start_script(
        "scripts/app", "--port", free_port(), "--device", "cpu", HOME=str(home), TMPDIR=str(home / "tmp")
    )
    line = process.stdout.readline()
    if not line.startswith("serving"):
        process.kill()
        pytest.fail(process.communicate()[1])
    yield line.split()[1]
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert (process.returncode, errors) == (0, "")
    assert files_in(home) == []  # what was in the temporary folder is gone with it


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed ({', '.join(BROWSERS)}): apt-get install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def visit(browser, server):
    """A function that opens the page in a window of its own; in none may anything go wrong."""
    requests, errors, contexts = [], [], []

    def open_page():
        contexts.append(browser.new_context(accept_downloads=True))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda note: errors.append(note.text) if note.type == "error" else None)
        page.goto(server)
        page.locator("#hands button").first.wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [url for url in requests if not url.startswith((server, "data:", "blob:"))] == []
    assert errors == []


@pytest.fixture(scope="module")
def page(visit):
    """A visitor's page."""
    return visit()


def wait_for_text(page, selector, words):
    page.locator(selector, has_text=words).wait_for()


def lines_of(page):
    """Texts and pixels of the lines on the sheet."""
    images = page.locator("#sheet img")
    return [
        (
            image.get_attribute("alt"),
            np.asarray(Image.open(io.BytesIO(base64.b64decode(image.get_attribute("src").split(",")[1])))),
        )
        for image in images.all()
    ]


def write(page, count=2):
    """Write, and wait for as many new lines: what the last drawing left on the page may stand for a while."""
    page.evaluate("document.querySelectorAll('#sheet img').forEach(image => image.classList.add('old'))")
    page.locator("#write").click()
    page.locator("#sheet img.old").first.wait_for(state="detached")
    page.locator("#sheet img:not(.old)").nth(count - 1).wait_for()
    wait_for_text(page, "#told", "Done.")
    return lines_of(page)


def save(page, kind):
    with page.expect_download() as download:
        page.locator(f"#save-{kind}").click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def looks_written(pixels):
    """Dark ink on mostly white paper."""
    return pixels.min() < 100 and np.median(pixels) > 240 and 0.005 < (pixels < 160).mean() < 0.4


def test_a_visitor_writes_chooses_drops_and_saves(page, home):
    # What can't be spelled is said before anything is drawn.
    page.locator("#text textarea").fill("Hello 漢")
    wait_for_text(page, "#faults", "The model has no letter for: 漢")
    assert page.locator("#write").is_disabled()
    page.locator("#text textarea").fill("Hello\nmoon")
    page.locator("#write:enabled").wait_for()

    # A hand of the gallery.
    page.locator("#hands button").nth(2).click()
    page.locator("#hands button:nth-of-type(3)[aria-pressed=true]").wait_for()
    chosen = write(page)
    assert [text for text, _ in chosen] == ["Hello", "moon"]
    assert all(looks_written(pixels) for _, pixels in chosen)
    seen = np.asarray(Image.open(io.BytesIO(page.locator("#sheet").screenshot())).convert("L"))
    assert looks_written(seen)

    # A picture of someone's writing.
    page.get_by_label("Pictures", exact=True).first.check()
    picture = io.BytesIO()
    Image.fromarray(draw_word("handwriting", font_size=60, margin=20)).save(picture, format="PNG")
    page.locator("#drop .drop").wait_for()
    page.evaluate(DROP, ["letter.png", base64.b64encode(picture.getvalue()).decode()])
    wait_for_text(page, "#made", "The hand of 1 line is ready.")
    assert not any(picture.getvalue()[:200] in file.read_bytes() for file in files_in(home))
    pictured = write(page)
    assert not np.array_equal(pictured[0][1], chosen[0][1])

    # Saved in three ways.
    name, content = save(page, "png")
    saved = np.asarray(Image.open(io.BytesIO(content)))
    height, width = pictured[0][1].shape
    margin = (saved.shape[0] - 2 * height) // 2
    assert name == "sheet.png"
    assert np.array_equal(saved[margin : margin + height, margin : margin + width], pictured[0][1])
    name, content = save(page, "text_images")
    archive = zipfile.ZipFile(io.BytesIO(content))
    records = [json.loads(line) for line in archive.read("metadata.jsonl").decode().splitlines()]
    assert name == "text_images.zip" and [record["text"] for record in records] == ["Hello", "moon"]
    assert {record["file_name"] for record in records} < set(archive.namelist())
    name, content = save(page, "page")
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert name == "page.zip" and b"<Unicode>moon</Unicode>" in archive.read("page-000000.xml")

    # No file anywhere but in the server's temporary folder.
    assert all(file.is_relative_to(home / "tmp") for file in files_in(home))


def test_a_drawing_can_be_stopped(page):
    page.locator("#text textarea").fill("a long line of writing\n" * 40)
    page.locator("#write:enabled").click()
    wait_for_text(page, "#told", "of 40 …")
    page.locator("#stop").click()
    wait_for_text(page, "#told", "Stopped after")
    assert 0 < len(lines_of(page)) < 40


# Without a browser


def send(url, blocks, button, values, session):
    """Press a button as a browser does, and wait until it is done; the last outputs."""
    import httpx

    dependencies = blocks.config["dependencies"]
    pressed = [d for d in dependencies if any(target[0] == button._id for target in d["targets"])]
    number = next(d["id"] for d in pressed if d["inputs"])
    request = {"data": values, "fn_index": number, "session_hash": session}
    httpx.post(f"{url}gradio_api/queue/join", json=request, timeout=60).raise_for_status()
    address = f"{url}gradio_api/queue/data?session_hash={session}"
    with httpx.stream("GET", address, timeout=60) as answer:
        for line in answer.iter_lines():
            message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                return message["success"]
    return False


def test_two_visitors_are_served_at_once(styled_pipeline, monkeypatch, tmp_path):
    pytest.importorskip("gradio", reason="gradio is not installed: no page")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    from scripts.app_desk import Desk
    from scripts.app_page import build_page, launch_page

    both = threading.Barrier(2)

    class SlowDesk(Desk):
        def write(self, *args, **settings):
            both.wait(timeout=30)  # nobody goes on before the other one is served, too
            yield from super().write(*args, **settings)

    blocks = build_page(SlowDesk(styled_pipeline))
    url = launch_page(blocks, host="127.0.0.1", port=free_port(), middleware=[])
    button = next(block for block in blocks.blocks.values() if block.elem_id == "write")
    values = ["cab", "Gallery", None, None, 0, 0.0, 0, None, None, None, 0, 0, 0]
    try:
        with ThreadPoolExecutor() as pool:
            visits = [pool.submit(send, url, blocks, button, values, name) for name in ("one", "two")]
            assert [visit.result() for visit in visits] == [True, True]
    finally:
        blocks.close(verbose=False)
    assert not both.broken


def test_a_port_that_is_none_is_said():
    pytest.importorskip("gradio", reason="gradio is not installed: no page")
    with pytest.raises(UserError, match="--port 0: is 1 to 65535"):
        run_script("scripts/app", "--port", 0)
