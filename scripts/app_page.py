"""The page of scripts/app.py: what stands on it, and what its buttons do."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import gradio as gr

from diffusion.variation import DEFAULT_VARIATION
from generation.sheet import MOST_CHARACTERS, Sheet, find_faults
from scripts.app_desk import (
    MOST_BYTES,
    MOST_BYTES_TOGETHER,
    MOST_NUMBER,
    MOST_PICTURES,
    NEW,
    PICTURED,
    SHOWN_HANDS,
    Choice,
    Desk,
)
from scripts.app_views import DROP_HTML, PICK_JS, SAVE_JS, make_download, show_hands, show_sheet
from utils.errors import UserError

FILES = Path(__file__).parent / "app_files"
TEXT = "The quick brown fox jumps\nover a lazy dog."
GALLERY, PICTURES, MIX, RANDOM = "Gallery", "Pictures", "Mix", "New"
MIXED = 3  # hands at most in a mix
AT_ONCE = 2  # sheets that are drawn at the same time
MOST_WAITING = 20  # requests in the queue
KEPT = {  # what a sheet can be saved as: (button, file name, kind, method)
    "png": ("Save as PNG", "sheet.png", "image/png", Sheet.as_png),
    "text_images": ("Save text images", "text_images.zip", "application/zip", Sheet.as_text_images),
    "page": ("Save page with PAGE", "page.zip", "application/zip", Sheet.as_pages),
}


class _Page:
    """The page's parts as they are made, and what its buttons do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.stopped: set[str] = set()  # sessions whose drawing is to end
        self.first = desk.find_hands("")[0]

    # What buttons do

    def check(self, text: str) -> tuple[str, object]:
        faults = find_faults(text, self.desk.pipeline)
        return "\n\n".join(faults), gr.update(interactive=not faults)

    def look(self, words: str, page: int, chosen: str) -> tuple[str, int, str]:
        """A page of the gallery: its HTML, its number as far as there are pages, and where that is."""
        found = self.desk.find_hands(words[:100])
        last = max(0, (len(found) - 1) // SHOWN_HANDS)
        page = min(max(0, int(page)), last)
        names = found[page * SHOWN_HANDS : (page + 1) * SHOWN_HANDS]
        where = f"{len(found)} hands, page {page + 1} of {last + 1}; chosen: **{chosen}**"
        return show_hands(names, self.desk.samples(names), chosen), page, where

    def pick(self, event: gr.EventData, words: str, page: int) -> tuple[str, str, int, str]:
        name = str(event.name)
        if name not in self.desk.pipeline.config.writers:
            name = self.first
        return name, *self.look(words, page, name)

    def take_pictures(self, event: gr.EventData) -> tuple[object, str]:
        try:
            hand, lines = self.desk.hand_of_pictures(list(event.pictures))
        except UserError as error:
            return None, f"⚠ {error}"
        return hand, f"The hand of {lines} {'line' if lines == 1 else 'lines'} is ready."

    def describe_new(self, number: float) -> str:
        try:
            new = self.desk.new_hand(_whole(number))
        except UserError as error:
            return f"⚠ {error}"
        return f"A hand of nobody; the nearest one that the model knows is {new.nearest}."

    def end(self, request: gr.Request) -> None:
        self.stopped.add(request.session_hash)

    def write(
        self,
        request: gr.Request,
        text: str,
        kind: str,
        chosen: str,
        pictured: object,
        number: float,
        variation: float,
        seed: float,
        *mix: object,
    ) -> Iterator[tuple[str, Sheet | None, str]]:
        """Each line as it is drawn: the sheet's HTML, the sheet, and what is told of it."""
        shares: dict[str, float] = {}
        if kind == MIX:
            for name, share in zip(mix[:MIXED], mix[MIXED:], strict=True):
                if name:
                    shares[str(name)] = shares.get(str(name), 0.0) + float(share)
        else:
            shares = {{PICTURES: PICTURED, RANDOM: NEW}.get(kind, chosen): 1.0}
        self.stopped.discard(request.session_hash)
        yield show_sheet(None), None, "Drawing …"
        try:
            choice = Choice(shares=shares, pictured=pictured, number=_whole(number))
            drawing = self.desk.write(text, choice, variation=float(variation), seed=_whole(seed))
            for sheet in drawing:
                count = len(sheet.images)
                told = f"Line {count} of {len(sheet.jobs)} …" if count < len(sheet.jobs) else "Done."
                yield show_sheet(sheet), sheet, told
                if request.session_hash in self.stopped:
                    self.stopped.discard(request.session_hash)
                    yield gr.skip(), gr.skip(), f"Stopped after {count} lines."
                    return
        except UserError as error:
            yield gr.skip(), gr.skip(), f"⚠ {error}"

    # What stands there

    def build(self) -> gr.Blocks:
        """The page."""
        with gr.Blocks(title="DiffusionHTR", analytics_enabled=False) as blocks:
            gr.HTML("<h1>DiffusionHTR</h1><p>Writes your text in any hand.</p>", elem_id="title")
            with gr.Row():
                with gr.Column(scale=2, min_width=320):
                    self._add_text()
                    self._add_hands()
                    self._add_settings()
                with gr.Column(scale=3, min_width=320):
                    self._add_sheet()
            self._connect_writing()
        return blocks

    def _add_text(self) -> None:
        is_known = not find_faults(TEXT, self.desk.pipeline)
        self.text = gr.Textbox(
            TEXT if is_known else self.desk.sample_text(),
            label="Text",
            lines=4,
            max_lines=12,
            max_length=MOST_CHARACTERS,
            elem_id="text",
        )
        self.faults = gr.Markdown(elem_id="faults")

    def _add_hands(self) -> None:
        kinds = [GALLERY, PICTURES, MIX, RANDOM] if self.desk.takes_hands else [GALLERY, MIX]
        self.kind = gr.Radio(kinds, value=GALLERY, label="Hand", elem_id="kind")
        self.chosen, self.pictured, self.page = gr.State(self.first), gr.State(None), gr.State(0)
        with gr.Column(visible=True, min_width=280) as gallery:
            self._add_gallery()
        with gr.Column(visible=False, min_width=280) as pictures:
            limits = {"count": MOST_PICTURES, "bytes": MOST_BYTES, "together": MOST_BYTES_TOGETHER}
            script = (FILES / "drop.js").read_text(encoding="utf-8")
            drop = gr.HTML("", html_template=DROP_HTML, js_on_load=script, limits=limits, elem_id="drop")
            made = gr.Markdown(elem_id="made")
            drop.pictures(self.take_pictures, None, [self.pictured, made], **_DRAWING)
        with gr.Column(visible=False, min_width=280) as mix:
            self._add_mix()
        with gr.Column(visible=False, min_width=280) as new:
            with gr.Row():
                self.number = gr.Number(0, label="Number", precision=0, minimum=0, elem_id="number")
                another = gr.Button("Another one", size="sm", elem_id="another")
            about = gr.Markdown("Choose a number: each is another hand, of nobody.", elem_id="about")
            another.click(_draw_number, None, self.number, **_QUICK)
            self.number.change(self.describe_new, self.number, about, **_QUICK)
        groups = {GALLERY: gallery, PICTURES: pictures, MIX: mix, RANDOM: new}
        self.kind.change(
            lambda kind: [gr.update(visible=kind == name) for name in groups],
            self.kind,
            list(groups.values()),
            **_QUICK,
        )

    def _add_gallery(self) -> None:
        search = gr.Textbox(label="Find a hand by its name", placeholder="dhsd, caveat …", elem_id="search")
        names = self.desk.find_hands("")[:SHOWN_HANDS]
        hands = gr.HTML(
            show_hands(names, self.desk.samples(names), self.first), js_on_load=PICK_JS, elem_id="hands"
        )
        with gr.Row():
            arrows = {"min_width": 60, "scale": 0, "size": "sm"}
            back, on = gr.Button("←", elem_id="back", **arrows), gr.Button("→", elem_id="on", **arrows)
            where = gr.Markdown(self.look("", 0, self.first)[2])
        shown = [hands, self.page, where]
        inputs = [search, self.page, self.chosen]
        search.change(lambda words, _, chosen: self.look(words, 0, chosen), inputs, shown, **_LOOKING)
        back.click(lambda words, page, chosen: self.look(words, page - 1, chosen), inputs, shown, **_LOOKING)
        on.click(lambda words, page, chosen: self.look(words, page + 1, chosen), inputs, shown, **_LOOKING)
        hands.picked(self.pick, [search, self.page], [self.chosen, *shown], **_QUICK)

    def _add_mix(self) -> None:
        names = sorted(self.desk.pipeline.config.writers)
        special = [PICTURED, NEW] if self.desk.takes_hands else []
        firsts = [*self.desk.find_hands("")[:2], None]
        self.mix_names, self.mix_shares = [], []
        for number, first in zip(range(MIXED), firsts, strict=False):
            with gr.Group():
                hand = gr.Dropdown([*special, *names], value=first, label=f"Hand {number + 1}")
                self.mix_names.append(hand)
                share = 50 if first else 0
                self.mix_shares.append(gr.Slider(0, 100, value=share, step=1, label="Share"))

    def _add_settings(self) -> None:
        with gr.Row():
            self.variation = gr.Slider(0, 1, value=DEFAULT_VARIATION, step=0.05, label="Variation")
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed", min_width=80)
            other = gr.Button("Other seed", size="sm", min_width=80)
        other.click(_draw_number, None, self.seed, **_QUICK)

    def _add_sheet(self) -> None:
        with gr.Row():
            self.go = gr.Button("Write", variant="primary", scale=2, min_width=120, elem_id="write")
            self.stop = gr.Button("Stop", scale=1, min_width=80, elem_id="stop")
        self.told = gr.Markdown("", elem_id="told")
        self.paper = gr.HTML(show_sheet(None), elem_id="sheet")
        self.sheet, self.file = gr.State(None), gr.Textbox(visible="hidden", elem_id="file")
        with gr.Row():
            for key, (label, name, kind, make) in KEPT.items():

                def save(sheet: Sheet | None, made: tuple = (name, kind, make)) -> tuple[str, str]:
                    name, kind, make = made
                    if sheet is None:
                        return "", "⚠ There is no sheet yet: press Write first."
                    return make_download(name, kind, make(sheet)), f"Saved {name}."

                button = gr.Button(label, size="md", min_width=160, elem_id=f"save-{key}")
                saving = button.click(save, self.sheet, [self.file, self.told], **_LOOKING)
                saving.then(None, self.file, None, js=SAVE_JS)

    def _connect_writing(self) -> None:
        self.text.change(self.check, self.text, [self.faults, self.go], trigger_mode="always_last", **_QUICK)
        inputs = [self.text, self.kind, self.chosen, self.pictured, self.number, self.variation, self.seed]
        self.go.click(
            self.write,
            [*inputs, *self.mix_names, *self.mix_shares],
            [self.paper, self.sheet, self.told],
            show_progress_on=self.told,  # while others are drawn: the place in the queue
            **(_DRAWING | {"show_progress": "minimal"}),
        )
        self.stop.click(self.end, None, None, **_QUICK)


_QUICK = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
_LOOKING = {
    "show_progress": "minimal",
    "concurrency_limit": 4,
    "concurrency_id": "look",
    "api_visibility": "private",
}
_DRAWING = {
    "show_progress": "hidden",
    "concurrency_limit": AT_ONCE,
    "concurrency_id": "draw",
    "api_visibility": "private",
}


def _whole(number: float | None) -> int:
    return int(number) if number is not None else 0


def _draw_number() -> int:
    return random.randrange(min(MOST_NUMBER, 1_000_000))


def build_page(desk: Desk) -> gr.Blocks:
    """The page of a desk; it draws the first hands of the gallery, which warms the model, too."""
    return _Page(desk).build().queue(max_size=MOST_WAITING)


def launch_page(blocks: gr.Blocks, *, host: str, port: int, middleware: Sequence) -> str:
    """Serve the page from now on, in threads; returns its address."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    _, url, _ = blocks.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        ssr_mode=False,
        footer_links=[],
        enable_monitoring=False,
        state_session_capacity=100,
        max_file_size=0,
        theme=gr.themes.Default(**fonts),
        css_paths=FILES / "page.css",
        app_kwargs={"middleware": list(middleware)},
    )
    return url
