"""utils.demo.page in a headless Chromium, as a visitor sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

pytest.importorskip("gradio")

from model.segmenter import PixDLM  # noqa: E402
from tests.browser import NAMES, Browser, find_chromium  # noqa: E402
from tests.serving import running, send  # noqa: E402
from tests.utils.demo.conftest import LIMITS  # noqa: E402
from utils.demo import page as page_module  # noqa: E402
from utils.demo.api import build_api  # noqa: E402
from utils.demo.examples import Example  # noqa: E402
from utils.demo.page import add_page  # noqa: E402
from utils.demo.service import Service  # noqa: E402
from utils.demo.visit import Visits  # noqa: E402

QUESTION = "Mark the yellow car."
HARMLESS = ("Method not implemented",)  # Gradio's own, in an empty page too


@pytest.fixture(scope="module")
def new_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Browser]]:
    """Makes browsers that share nothing."""
    program = find_chromium()
    if program is None:
        pytest.skip(f"no Chromium: PIXDLM_CHROMIUM is not set, and none of {', '.join(NAMES)} is on the PATH")
    made = []

    def make() -> Browser:
        made.append(Browser(program, tmp_path_factory.mktemp("profile")))
        return made[-1]

    yield make
    for browser in made:
        browser.close()


@pytest.fixture(scope="module")
def browser(new_browser: Callable[[], Browser]) -> Browser:
    return new_browser()


@pytest.fixture(scope="module")
def served(
    pixdlm: PixDLM, picture: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Visits, Path]]:
    """Address of a page with one example, its visits, and the folder of its uploads."""
    folder = tmp_path_factory.mktemp("uploads")
    service = Service(pixdlm, LIMITS, 8, 64)
    app = build_api(service)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("GRADIO_TEMP_DIR", str(folder))
        patched.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        patched.setattr(page_module, "find_examples", lambda folder: [Example(picture, "What is the road?")])
        visits = add_page(app, service, folder)
        with running(app) as address:
            yield address, visits, folder
    service.close()


class Shown:
    """The page in a browser, by what a visitor sees and does."""

    def __init__(self, browser: Browser, address: str, width: int = 1280, height: int = 900) -> None:
        self.browser, self.run, self.address = browser, browser.run, address
        browser.errors.clear()
        browser.requests.clear()
        browser.resize(width, height)
        browser.open(address)
        browser.wait_for("!!document.querySelector('#picture input[type=file]') && !!document.querySelector('#ask')")

    def upload(self, path: Path) -> None:
        self.browser.upload("#picture input[type=file]", path)

    def open(self, path: Path) -> None:
        """Upload a picture and wait until it is shown."""
        self.upload(path)
        self.browser.wait_for(f"document.querySelector('.pix-name')?.textContent.startsWith({json.dumps(path.name)})")

    def type(self, question: str) -> None:
        self.run(
            "(() => { const field = document.querySelector('#question textarea'); field.value = "
            f"{json.dumps(question)}; field.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
        )
        time.sleep(0.2)  # until Gradio has it

    def ask(self, question: str) -> None:
        """Ask, and wait for the answer."""
        count = self.answers()
        self.type(question)
        self.click("#ask")
        self.browser.wait_for(f"document.querySelectorAll('.pix-legend > li').length > {count}", 40)

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def answers(self) -> int:
        return self.run("document.querySelectorAll('.pix-legend > li').length")

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def told(self, message: str) -> None:
        """Wait until the page says so."""
        self.browser.wait_for(f"document.querySelector('#notice')?.innerText.includes({json.dumps(message)})")

    def fade(self, percent: int) -> None:
        """Move the slider."""
        self.run(
            "(() => { const slider = document.querySelector('.pix-opacity input'); slider.value = "
            f"{percent}; slider.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
        )

    def stage(self, tmp_path: Path, mask: np.ndarray) -> np.ndarray:
        """float[3], the mean colour on the screen of what lies well inside a mask."""
        inside = mask & np.roll(mask, 3, 0) & np.roll(mask, -3, 0) & np.roll(mask, 3, 1) & np.roll(mask, -3, 1)
        rows, columns = inside.nonzero()
        self.run("document.querySelector('.pix-stage').scrollIntoView({block: 'start'})")
        time.sleep(0.3)
        self.browser.screenshot(tmp_path / "shot.png")
        box = self.run("(({x, y, width, height}) => [x, y, width, height])"
                       "(document.querySelector('.pix-stage').getBoundingClientRect())")  # fmt: skip
        screen = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB"), np.float64)
        y = (box[1] + (rows + 0.5) / mask.shape[0] * box[3]).astype(int)
        x = (box[0] + (columns + 0.5) / mask.shape[1] * box[2]).astype(int)
        return screen[y, x].mean(axis=0)

    def complaints(self) -> list[str]:
        """Of the console, without those that mean nothing."""
        return [one for one in self.browser.errors if not any(known in one for known in HARMLESS)]


@pytest.fixture
def shown(browser: Browser, served: tuple[str, Visits, Path]) -> Iterator[Shown]:
    """The page, which asks no other machine for anything and leaves no file, whatever is done with it."""
    page = Shown(browser, served[0])
    yield page
    assert not [url for url in browser.requests if not url.startswith((served[0], "data:", "blob:"))]
    assert not page.complaints()
    assert not [path for path in served[2].rglob("*") if path.is_file()]


def test_a_question_is_answered_and_its_mask_shown(shown: Shown, picture: Path, pixdlm: PixDLM, tmp_path: Path) -> None:
    expected = pixdlm.segment(picture, QUESTION)
    (mask,), photo = expected.masks, np.asarray(Image.open(picture), np.float64)
    shown.open(picture)
    shown.ask(QUESTION)
    assert "One mask" in shown.run("document.querySelector('#said textarea').value")
    row = shown.text(".pix-legend > li")
    assert QUESTION in row and f"Confidence {expected.scores[0]:.0%}" in row
    colours = {}
    for percent in (0, 50, 100):
        shown.fade(percent)
        colours[percent] = shown.stage(tmp_path, mask)
    inside = mask & np.roll(mask, 3, 0) & np.roll(mask, -3, 0) & np.roll(mask, 3, 1) & np.roll(mask, -3, 1)
    assert np.abs(colours[0] - photo[inside].mean(axis=0)).max() < 12
    assert np.abs(colours[100] - (255, 32, 208)).max() < 3
    assert np.abs(colours[50] - (colours[0] + colours[100]) / 2).max() < 6


def test_masks_of_several_questions_stay_are_hidden_and_removed(shown: Shown, picture: Path) -> None:
    shown.open(picture)
    for question in (QUESTION, "What is the road?", "Show <b>green</b> ${1+1} {{value}} \\ `x`"):
        shown.ask(question)
    rows = shown.run("[...document.querySelectorAll('.pix-legend b')].map((one) => one.innerText)")
    assert rows == ["Show <b>green</b> ${1+1} {{value}} \\ `x`", "What is the road?", QUESTION]
    assert not shown.run("!!document.querySelector('.pix-legend b b')")
    swatches = shown.run("[...document.querySelectorAll('.pix-eye i')].map((one) => one.style.backgroundColor)")
    assert len(set(swatches)) == len(swatches) == 3
    visible = "[...document.querySelectorAll('.pix-inside')].map((one) => getComputedStyle(one).display != 'none')"
    shown.fade(80)
    shown.click(".pix-legend > li:last-child .pix-eye")
    assert shown.run(visible) == [False, True, True]
    shown.click(".pix-legend > li:first-child [data-remove]")
    shown.browser.wait_for("document.querySelectorAll('.pix-legend > li').length == 2")
    assert shown.run(visible) == [False, True]  # what was hidden stays hidden, and what was faded faded
    assert shown.run("document.querySelector('.pix-opacity input').value") == "80"
    shown.click("[data-remove=all]")
    shown.browser.wait_for("document.querySelectorAll('.pix-legend > li').length == 0")
    assert shown.run("document.querySelectorAll('#history tbody tr').length") in (0, 3)  # closed, or all of them


def test_downloads(shown: Shown, picture: Path, pixdlm: PixDLM, tmp_path: Path) -> None:
    expected = pixdlm.segment(picture, QUESTION)
    shown.browser.save_downloads(tmp_path)
    shown.open(picture)
    shown.ask(QUESTION)
    for link in (".pix-links a[download$=png]", ".pix-links a[download$=json]", ".pix-tools a"):
        name = shown.run(f"document.querySelector('{link}').download")
        shown.click(link)
        ends = time.monotonic() + 10
        while not (tmp_path / name).exists():
            assert time.monotonic() < ends, f"{name} was not saved"
            time.sleep(0.05)
    (file,) = tmp_path.glob("mask-*.png")
    assert np.array_equal(np.asarray(Image.open(file)), expected.masks[0])
    (answer,) = (json.loads(path.read_text()) for path in tmp_path.glob("answer-*.json"))
    assert (answer["picture"], answer["width"], answer["height"]) == (picture.name, 128, 96)
    assert np.array_equal(coco.decode(answer["masks"][0]["rle"]), expected.masks[0])
    together = json.loads((tmp_path / "answers.json").read_text())
    assert [one["question"] for one in together["answers"]] == [QUESTION]


def test_an_example_brings_its_question(shown: Shown) -> None:
    shown.click("[data-example='0']")
    shown.browser.wait_for("document.querySelector('#question textarea').value == 'What is the road?'")
    assert shown.text(".pix-name").startswith("yellow.png, 128 × 96")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"no picture", "damaged or no picture"), (b"", "the file is empty"), (None, "damaged or no picture")],
)
def test_a_broken_upload_is_told_and_the_picture_before_stays(
    shown: Shown, picture: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    shown.open(picture)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(picture.read_bytes()[:-60] if content is None else content)
    shown.upload(broken)
    shown.told(message)
    assert "Traceback" not in shown.text("body") and shown.text(".pix-name").startswith("yellow.png")
    shown.ask(QUESTION)
    assert not shown.text("#notice").strip()


def test_an_upload_that_is_too_large_is_told(
    browser: Browser, served: tuple[str, Visits, Path], tmp_path: Path
) -> None:
    shown = Shown(browser, served[0])
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)).save(file, "PNG")
    (tmp_path / "large.png").write_bytes(file.getvalue())
    assert len(file.getvalue()) > LIMITS.upload_bytes
    shown.upload(tmp_path / "large.png")
    browser.wait_for("/exceed|maximum|too large/i.test(document.body.innerText)")
    assert not shown.run("!!document.querySelector('.pix-photo')")


@pytest.mark.parametrize(
    ("question", "message"),
    [("", "the question is empty"), ("the [SEG0] car", "special token '[SEG0]'"), ("why " * 2000, "shorten")],
)
def test_questions_that_cannot_be_asked(shown: Shown, picture: Path, question: str, message: str) -> None:
    shown.open(picture)
    shown.type(question)
    shown.click("#ask")
    shown.told(message)
    assert shown.answers() == 0


def test_without_a_picture(shown: Shown) -> None:
    shown.type(QUESTION)
    shown.click("#ask")
    shown.told("drop one, or choose an example")


def test_nothing_found_is_said_in_words(shown: Shown, picture: Path, pixdlm: PixDLM, monkeypatch: Any) -> None:
    answer = pixdlm.segment(picture, QUESTION)
    nothing = type(answer)(answer.masks[:0], answer.scores[:0], answer.boxes[:0], "No.", 0.0, "no_seg", QUESTION)
    monkeypatch.setattr(pixdlm, "segment", lambda *given: nothing)
    shown.open(picture)
    shown.ask(QUESTION)
    assert "Nothing in the picture answers this" in shown.text(".pix-legend > li")
    said = shown.run("document.querySelector('#said textarea').value")
    assert said.splitlines() == ["No.", "Nothing in the picture answers this, says the model."]
    assert not shown.run("!!document.querySelector('.pix-layer')")


def test_the_text_is_shown_while_it_is_written_and_can_be_stopped(
    shown: Shown, picture: Path, pixdlm: PixDLM, monkeypatch: Any, served: tuple[str, Visits, Path]
) -> None:
    def slow(features: Any, question: str, most: int, heard: Callable[[str], None]) -> None:
        for number in range(600):
            heard(f"word {number}")
            time.sleep(0.05)

    monkeypatch.setattr(pixdlm, "segment", slow)
    shown.open(picture)
    shown.type(QUESTION)
    shown.click("#ask")
    shown.browser.wait_for("/word [3-9]/.test(document.querySelector('#said textarea').value)")
    shown.click("#stop")
    shown.told("Stopped")
    monkeypatch.undo()
    shown.ask(QUESTION)  # the model is free again
    assert shown.answers() == 1


def test_two_visitors_see_their_own(
    shown: Shown, new_browser: Callable[[], Browser], served: tuple[str, Visits, Path], picture: Path, tmp_path: Path
) -> None:
    shown.open(picture)
    shown.ask(QUESTION)
    other = Shown(new_browser(), served[0])
    assert not other.run("!!document.querySelector('.pix-photo')") and other.answers() == 0
    other.type(QUESTION)
    other.click("#ask")
    other.told("there is no picture")
    Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "other.png")
    other.open(tmp_path / "other.png")
    for page, question in ((other, "What is red?"), (shown, "What is the road?")):
        page.ask(question)
    assert shown.text(".pix-name").startswith("yellow.png") and other.text(".pix-name").startswith("other.png")
    assert shown.answers() == 2 and other.answers() == 1
    assert "red" not in shown.text("body") and "road" not in other.text(".pix-board")
    assert not [url for url in shown.browser.requests if "/file=" in url]  # nothing that others could fetch
    visits, count = served[1], len(served[1].visitors)
    other.browser.open("about:blank")
    ends = time.monotonic() + 30
    while len(visits.visitors) >= count:
        assert time.monotonic() < ends, "who left is remembered"
        time.sleep(0.1)


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_nothing_sticks_out(
    browser: Browser, served: tuple[str, Visits, Path], picture: Path, width: int, height: int
) -> None:
    shown = Shown(browser, served[0], width, height)
    shown.open(picture)
    shown.ask("A long question about the yellow car beside the road, and about whatever else is to be seen there?")
    assert shown.run("document.documentElement.scrollWidth") <= width
    stage = shown.run("document.querySelector('.pix-stage').getBoundingClientRect().width")
    assert stage > width * (0.7 if width < 600 else 0.35)


def test_a_page_with_a_password(pixdlm: PixDLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setattr(page_module, "find_examples", lambda folder: [])
    service = Service(pixdlm, LIMITS, 2, 64)
    app = build_api(service, ("anna", "secret"))
    add_page(app, service, tmp_path, ("anna", "secret"))
    with running(app) as address:
        assert send(address, path="/config", method="GET").status == 401
        assert send(address, path="/gradio_api/upload").status == 401
        assert send(address).status == 401
        assert "pix-board" not in send(address, path="/", method="GET").text
    service.close()
