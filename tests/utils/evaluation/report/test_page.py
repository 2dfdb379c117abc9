"""utils.evaluation.report.page: the page as a file, and as a headless Chromium shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import NAMES, Browser, find_chromium
from tests.utils.evaluation.report.evaluated import HOSTILE, forget_header, make_samples, write_run
from utils.datasets.drseg import SPEC
from utils.evaluation.report.page import PAGE_BYTES, PICTURE_BYTES, picture_bytes, write_report
from utils.runtime.errors import UserError

COUNT = 60  # more than a page of the gallery


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of one evaluation, and one of two."""
    base = tmp_path_factory.mktemp("report")
    samples = make_samples(base / "frames", COUNT)
    some = write_run(base / "a", samples)
    other = write_run(base / "b", samples, shift=-0.25)
    write_report(base / "one.html", [some], list(samples.values()), SPEC)
    write_report(base / "two.html", [some, other], list(samples.values()), SPEC)
    return {"one": base / "one.html", "two": base / "two.html"}


def test_the_file_holds_each_picture_once_and_ends_no_element_early(pages: dict[str, Path]) -> None:
    page = pages["one"].read_text()
    assert page.count("</script>") == 3 and "<script>document" not in page
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert block and json.loads(block[1])["records"][0][4] == HOSTILE
    pictures = re.search(r'<script type="text/plain" id="pictures">(.*?)</script>', page, re.DOTALL)
    assert pictures and len(set(pictures[1].split("\n"))) == COUNT // 2
    assert not re.search(r'(?:src|href)="(?!#)', page)
    assert set(re.findall(r"\w+://[\w./]*", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address to load


def test_someone_else_s_predictions_have_a_page(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "frames")
    theirs = forget_header(write_run(tmp_path / "theirs", samples))
    ours = write_run(tmp_path / "ours", samples)
    for name, folders in (("one.html", [theirs]), ("two.html", [theirs, ours])):
        write_report(tmp_path / name, folders, list(samples.values()), SPEC)
        page = (tmp_path / name).read_text()
        assert "<h1>Evaluation on drseg, test split" in page and "not named by the predictions" in page
    bare = {"overall": {"count": 12, "giou": 0.5, "ciou": 0.5}}
    (theirs / "metrics.json").write_text(json.dumps(bare))
    write_report(tmp_path / "bare.html", [theirs, ours], list(samples.values()), SPEC)
    assert "<h1>Evaluation on drseg, all split" in (tmp_path / "bare.html").read_text()


def test_what_a_reader_must_know_stands_at_the_head(tmp_path: Path) -> None:
    samples = make_samples(tmp_path / "frames")
    protocol = {"kind": "forced", "reasoning": "given", "uses_ground_truth_text": True}
    folder = write_run(tmp_path / "given", samples, protocol=protocol)
    write_report(tmp_path / "page.html", [folder], list(samples.values()), SPEC)
    head = (tmp_path / "page.html").read_text().partition("<main>")[0]
    assert head.count("uses the data set’s answers as input") == 2
    protocol["unit"] = "question"
    other = write_run(tmp_path / "other", samples, protocol=protocol)
    with pytest.raises(UserError, match="report on each alone"):
        write_report(tmp_path / "page.html", [folder, other], list(samples.values()), SPEC)


@pytest.mark.parametrize(("count", "taken"), [(1, 0), (100, 10**6), (10_000, 12 * 10**6), (20_000, 10**7)])
def test_pictures_leave_the_page_its_size(count: int, taken: int) -> None:
    each = picture_bytes(count, taken)
    assert PICTURE_BYTES[0] <= each <= PICTURE_BYTES[1] and count * each * 4 / 3 + taken <= PAGE_BYTES


def test_a_data_set_of_any_size_gets_the_least_picture() -> None:
    assert picture_bytes(10**6, 0) == picture_bytes(10, 10**9) == PICTURE_BYTES[0]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip(f"no Chromium: PIXDLM_CHROMIUM is not set, and none of {', '.join(NAMES)} is on the PATH")
    running = Browser(program, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


class Shown:
    """A page in the browser, by what a user sees and does."""

    def __init__(self, browser: Browser, page: Path) -> None:
        self.browser, self.run = browser, browser.run
        browser.errors.clear()
        browser.requests.clear()
        browser.open(page.as_uri())

    def ids(self) -> list[str]:
        """Of the records in the gallery's page."""
        return self.run("[...document.querySelectorAll('#cards > li')].map((card) => card.dataset.id)")

    def choose(self, **values: Any) -> None:
        """Fill in the form's fields, and wait for the gallery."""
        for name, value in values.items():
            self.run(
                f"(() => {{ const field = document.forms[0].elements[{json.dumps(name)}]; field.value = "
                f"{json.dumps(str(value))}; field.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
            )
        self.run("new Promise((done) => setTimeout(done, 250))")

    def text(self, selector: str) -> str:
        return self.run(f"document.querySelector({json.dumps(selector)}).textContent")


@pytest.fixture
def one(browser: Browser, pages: dict[str, Path]) -> Iterator[Shown]:
    """The page of one evaluation; whatever is done with it, it asks for nothing and complains of nothing."""
    shown = Shown(browser, pages["one"])
    yield shown
    check_quiet(browser, pages["one"])


@pytest.fixture
def two(browser: Browser, pages: dict[str, Path]) -> Iterator[Shown]:
    """The page of two evaluations, likewise."""
    shown = Shown(browser, pages["two"])
    yield shown
    check_quiet(browser, pages["two"])


def check_quiet(browser: Browser, page: Path) -> None:
    outside = [url for url in browser.requests if not url.startswith("data:") and url.split("#")[0] != page.as_uri()]
    assert not outside and browser.errors == []


def test_the_gallery_is_filtered(one: Shown) -> None:
    assert len(one.ids()) == 24 and one.text("#count") == "60 masks" and one.text("#page") == "page 1 of 3"
    one.choose(kind="no_seg")
    assert one.ids() == ["r1"] and one.text("#count") == "1 of 60 masks"
    assert one.text("#cards .failure") == "no [SEG] in the answer"
    one.choose(kind="", text="VEHICLE 17")
    assert one.ids() == ["r17"]
    one.choose(text="", low="0.6", high="0.65")
    assert one.ids() == ["r2", *(f"r{number}" for number in range(20, 31))]
    one.choose(low="", high="", group0=1)
    assert one.ids() == [f"r{number}" for number in range(1, 60, 3)][:24]
    one.run("document.querySelector('form button[type=reset]').click()")
    one.choose()
    assert one.text("#count") == "60 masks"


def test_the_gallery_is_sorted_and_turned_over(one: Shown) -> None:
    one.choose(sort="best")
    assert one.ids()[:3] == ["r5", "r59", "r58"]
    one.choose(sort="unsure")
    assert one.ids()[:2] == ["r59", "r58"]
    one.choose(sort="id")
    assert one.ids() == [f"r{number}" for number in range(24)]
    one.run("document.getElementById('next').click()")
    assert one.ids()[0] == "r24" and one.text("#page") == "page 2 of 3"
    one.run("document.getElementById('next').click()")
    assert len(one.ids()) == 12 and one.run("document.getElementById('next').disabled")
    one.choose(sort="unsure", kind="no_seg")  # which has no confidence
    assert one.ids() == ["r1"]


def test_a_kind_in_the_table_filters_the_gallery(one: Shown) -> None:
    one.run("document.querySelector('a[href=\"#kind=broken\"]').click()")
    one.choose()
    assert one.ids() == ["r2"] and one.run("document.forms[0].elements.kind.value") == "broken"


def test_a_case_is_enlarged_and_left_by_keys(one: Shown) -> None:
    one.choose(sort="id")
    one.run("document.querySelector('#cards > li:nth-child(2) button').focus()")
    one.browser.press("Enter")
    assert one.run("document.getElementById('enlarged').open") and one.text("#position") == "2 of 60"
    assert one.text("#enlarged-question") == "Where is vehicle 1?"
    assert one.run("document.querySelectorAll('#enlarged-pictures path').length") == 1  # there is no prediction
    one.browser.press("ArrowRight")
    assert one.text("#position") == "3 of 60" and "IoU 0.600, broken [SEG] group" in one.text("#enlarged-pictures")
    assert "answer 2 <b>bold</b>" in one.text("#enlarged-answers")
    one.browser.press("ArrowLeft")
    one.browser.press("ArrowLeft")
    one.browser.press("ArrowLeft")
    assert one.text("#position") == "1 of 60"
    one.browser.press("Escape")
    assert not one.run("document.getElementById('enlarged').open")
    assert one.run("document.activeElement.closest('li').dataset.id") == "r1"


def test_masks_can_be_hidden_in_the_enlarged_view(one: Shown) -> None:
    one.run("document.querySelector('#cards button').click()")
    shown = "getComputedStyle(document.querySelector('#enlarged-pictures .{}')).display !== 'none'"
    assert one.run(shown.format("predicted")) and one.run(shown.format("annotated"))
    one.run("document.getElementById('show-predicted').click()")
    assert not one.run(shown.format("predicted")) and one.run(shown.format("annotated"))


def test_a_question_that_is_markup_is_shown_as_text(one: Shown) -> None:
    assert one.text("#cards > li .question") == HOSTILE
    assert one.run("document.title").startswith("PixDLM on drseg") and one.run("document.images.length") == 0


def test_paths_lie_on_their_pictures(one: Shown) -> None:
    one.choose(sort="id", text="vehicle 5?")
    box = "((b) => [b.x, b.y, b.width, b.height])(document.querySelector('#cards .{}').getBBox())"
    scale = 1024 / 120
    assert one.run(box.format("annotated")) == pytest.approx([scale * n for n in (40, 30, 30, 30)], abs=5)
    assert one.run(box.format("predicted")) == pytest.approx([scale * n for n in (45, 30, 30, 30)], abs=5)
    assert one.run("document.querySelector('#cards image').href.baseVal").startswith("data:image/jpeg;base64,/9j/")


def test_cases_are_worst_median_and_best(one: Shown) -> None:
    cases = "[...document.querySelectorAll('#case-rows ul')].map((row) => [...row.children].map((c) => c.dataset.id))"
    worst, median, best = one.run(cases)
    assert worst[:2] == ["r0", "r1"] and best[:2] == ["r5", "r59"] and len(median) == 4
    assert one.run("[...document.querySelectorAll('#case-rows h3')].map((h) => h.textContent)") == [
        "Worst", "Median", "Best"]  # fmt: skip


def test_two_runs_are_shown_filtered_and_sorted_side_by_side(two: Shown) -> None:
    assert two.run("document.querySelectorAll('#cards > li:first-child svg').length") == 2
    two.choose(sort="lost")
    lost = two.ids()[0]
    assert int(lost[1:]) >= 6 and "−0.25" in two.text("#cards > li .scored")
    two.choose(sort="order", run=1, low="0.53", high="0.55")
    assert two.ids() == ["r56", "r57", "r58", "r59"]
    two.choose(run=0)
    assert two.ids() == ["r6", "r7", "r8", "r9", "r10"]
    two.run("document.querySelector('#cards button').click()")
    captions = two.run("[...document.querySelectorAll('#enlarged figcaption')].map((one) => one.textContent[0])")
    assert captions == ["A", "B"] and two.run("document.querySelectorAll('#enlarged figure svg').length") == 2


@pytest.mark.parametrize("name", ["one", "two"])
def test_nothing_overhangs_on_a_phone(browser: Browser, pages: dict[str, Path], name: str) -> None:
    browser.resize(390, 844)
    try:
        browser.open(pages[name].as_uri())
        assert browser.run("document.documentElement.scrollWidth") == 390
    finally:
        browser.call("Emulation.clearDeviceMetricsOverride")
