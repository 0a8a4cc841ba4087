"""The parts of the page of scripts/app.py that gradio has no component for: HTML and a little script.

Their images are in the HTML itself, so that none is in a file.
"""

import base64
import html
import json
from collections.abc import Sequence

import numpy as np

from generation.sheet import Sheet
from utils.output import encode_png

# The place for pictures (drop.js takes them), the gallery's clicks, and what saves a file.
DROP_HTML = """<label class="drop"><input type="file" multiple accept="image/*" aria-label="Pictures">
<span>Drop pictures of someone's writing here, or click</span>
<small>A few lines of one person; at most ${limits.count} pictures of ${limits.bytes / 2 ** 20} MB each.
They stay in memory, and are forgotten with the page.</small>
<output></output></label>"""
PICK_JS = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-name]");
  if (button) trigger("picked", { name: button.dataset.name });
});"""
SAVE_JS = """(file) => {
  if (!file) return;
  const { name, url } = JSON.parse(file);
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
}"""


def show_hands(names: Sequence[str], images: Sequence[np.ndarray], chosen: str) -> str:
    """The gallery's HTML."""
    cards = [
        f'<button type="button" title="{html.escape(name)}" data-name="{html.escape(name)}"'
        f' aria-pressed="{str(name == chosen).lower()}">'
        f'<img alt="" src="{data_url(encode_png(image))}"><span>{html.escape(name)}</span></button>'
        for name, image in zip(names, images, strict=True)
    ]
    return f'<div class="hands">{"".join(cards) or "<p>No hand has this name.</p>"}</div>'


def show_sheet(sheet: Sheet | None) -> str:
    """The sheet's HTML: its lines at one scale, the widest one as wide as there is room."""
    if sheet is None:
        return '<div class="sheet">The sheet appears here.</div>'
    widest = max(image.shape[1] for image in sheet.images)
    lines = [
        f'<img alt="{html.escape(text)}" style="--width:{image.shape[1]}" '
        f'src="{data_url(encode_png(image))}">'
        for text, image in zip(sheet.texts, sheet.images, strict=True)
    ]
    return f'<div class="sheet" style="--widest:{widest}">{"".join(lines)}</div>'


def data_url(content: bytes, kind: str = "image/png") -> str:
    """A file as the address of itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def make_download(name: str, kind: str, content: bytes) -> str:
    """What the page's script saves as a file of this name, as JSON."""
    return json.dumps({"name": name, "url": data_url(content, kind)})
