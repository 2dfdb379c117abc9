"""The page, with Gradio: what is where, and what happens when something is clicked."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.networking import setup_tunnel

from utils.demo import board
from utils.demo.answers import is_marks, readable
from utils.demo.examples import Example, find_examples
from utils.demo.service import Service
from utils.demo.sessions import Visitor
from utils.demo.uploads import take_upload
from utils.demo.visit import Visits
from utils.runtime.errors import UserError

HERE = Path(__file__).parent
CLEANED = (300, 900)  # every 5 minutes uploads are removed that nobody asked about for 15
Parts = dict[Any, Any]


class Page:
    """The page's parts and what they do.

    Args:
        visits: of all who have the page open.
        examples: to choose from.
    """

    def __init__(self, visits: Visits, examples: list[Example]) -> None:
        self.visits, self.chosen = visits, examples
        with gr.Blocks(title="PixDLM", analytics_enabled=False, fill_width=True, delete_cache=CLEANED) as self.blocks:
            self._lay_out()
            self._connect()
            self.blocks.unload(self.leave)
        self.blocks.queue(max_size=4 * (visits.service.worker.capacity + 1), api_open=False)

    def _lay_out(self) -> None:
        most = self.visits.service.limits.upload_bytes / 2**20
        html(board.HEADER)
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.file = gr.File(
                    label=f"Picture, at most {most:.3g} MB", file_types=["image"], height=136, elem_id="picture"
                )
                self.examples = html(board.examples(self.chosen), js_on_load=script("examples.js"))
                self.question = gr.Textbox(
                    label="Question", placeholder="Which vehicle blocks the crossing?", max_lines=3, elem_id="question"
                )
                with gr.Row():
                    self.button = gr.Button("Ask", variant="primary", elem_id="ask", min_width=120, scale=3)
                    self.stop = gr.Button("Stop", elem_id="stop", min_width=80)
                self.notice = html(elem_id="notice")
                self.said = gr.Textbox(label="Answer", interactive=False, lines=2, elem_id="said")
            with gr.Column(scale=3, min_width=320):
                self.board = html(board.EMPTY, js_on_load=script("board.js"), elem_id="board")
                with gr.Accordion("History", open=False):
                    self.history = html(board.history(Visitor()), elem_id="history")

    def _connect(self) -> None:
        outputs = [self.file, self.question, self.notice, self.said, self.board, self.history]
        shared: dict[str, Any] = {"outputs": outputs, "show_progress": "hidden", "api_visibility": "private"}
        waiting = {**shared, "concurrency_limit": None}
        self.file.upload(self.open, self.file, **waiting)
        self.examples.click(self.open_example, **waiting)
        asked = [
            event(self.ask, self.question, **waiting, concurrency_id="ask")
            for event in (self.button.click, self.question.submit)
        ]
        self.stop.click(self.stopped, cancels=asked, **shared)
        self.board.click(self.remove, **shared)

    async def open(self, path: str | None, request: gr.Request) -> AsyncIterator[Parts]:
        """An upload, which is read into memory and removed."""
        try:
            if path is None:
                return
            data = take_upload(Path(path))
            async for parts in self._opened(data, Path(path).name, request):
                yield parts
        except UserError as error:
            yield {self.file: None, self.notice: board.notice(str(error))}

    async def open_example(self, event: gr.EventData, request: gr.Request) -> AsyncIterator[Parts]:
        """One of the examples, with its question."""
        try:
            example = self.chosen[event.example]
            async for parts in self._opened(example.path.read_bytes(), example.path.name, request):
                yield parts
            yield {self.question: example.question}
        except UserError as error:
            yield {self.notice: board.notice(str(error))}

    async def _opened(self, data: bytes, name: str, request: gr.Request) -> AsyncIterator[Parts]:
        yield {self.notice: board.notice("Looking at the picture …", alarm=False)}
        session = request.session_hash or ""
        async for waiting in self.visits.open(session, data, name):
            yield {self.notice: board.notice(waiting or "Looking at the picture …", alarm=False)}
        picture = self.visits.visitor(session).picture
        yield {self.file: None, self.notice: "", self.said: "", self.board: board.board(picture)}

    async def ask(self, question: str, request: gr.Request) -> AsyncIterator[Parts]:
        """A question, whose answer is shown as it is written."""
        session = request.session_hash or ""
        try:
            yield {self.notice: "", self.said: "…"}
            async for piece in self.visits.ask(session, question or ""):
                if isinstance(piece, str):
                    if piece:
                        yield {self.said: piece}
                    continue
                visitor = self.visits.visitor(session)
                words = readable(piece.record["text"])
                said = piece.verdict if is_marks(words) else f"{words}\n{piece.verdict}"
                yield {self.said: said, self.board: board.board(visitor.picture), self.history: board.history(visitor)}
        except UserError as error:
            yield {self.notice: board.notice(str(error)), self.said: ""}

    def stopped(self) -> Parts:
        """The question was given up."""
        return {self.said: "", self.notice: board.notice("Stopped.", alarm=False)}

    def remove(self, event: gr.EventData, request: gr.Request) -> Parts:
        """One answer less, or none any more."""
        session = request.session_hash or ""
        self.visits.remove(session, None if event.remove == "all" else int(event.remove))
        return {self.board: board.board(self.visits.visitor(session).picture)}

    def leave(self, request: gr.Request) -> None:
        """The page was closed."""
        self.visits.leave(request.session_hash or "")


def html(value: str = "", **settings: Any) -> gr.HTML:
    """A part of the page that looks as page.css says."""
    return gr.HTML(value, apply_default_css=False, **settings)


def script(name: str) -> str:
    """A file of JavaScript beside this one."""
    return (HERE / name).read_text(encoding="utf-8")


def add_page(app: FastAPI, service: Service, folder: Path, auth: tuple[str, str] | None = None) -> Visits:
    """Put the page at / beside the API.

    Args:
        app: of `build_api`.
        service: the model.
        folder: of `upload_folder`.
        auth: (user, password) that it asks for.
    """
    visits = Visits(service)
    page = Page(visits, find_examples(folder))
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # none that is fetched from elsewhere
    gr.mount_gradio_app(
        app,
        page.blocks,
        path="/",
        auth=auth,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=service.limits.upload_bytes,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Soft(font=fonts, font_mono=["ui-monospace", "monospace"]),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
    )
    return visits


def open_tunnel(host: str, port: int) -> str:
    """An address of Gradio's service that leads to this machine until the process ends.

    Raises:
        UserError: the service cannot be reached, or its program not be fetched.
    """
    try:
        return setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    except Exception as error:  # requests', json's, its own
        cause = f"{type(error).__name__} {error}".strip()[:300]
        raise UserError(f"--share: no tunnel ({cause}); see whether this machine reaches the internet") from error
