"""report.html: an evaluation, or two side by side, in one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from model.masks import ANNOTATED, PREDICTED
from utils.datasets.base import DatasetSpec, Sample
from utils.evaluation.metrics import METRICS, metric_names
from utils.evaluation.report import page_facts, summary
from utils.evaluation.report.charts import Chart, iou_histogram, reliability, size_chart
from utils.evaluation.report.gallery import build_gallery
from utils.evaluation.report.runs import Run, object_of, read_runs, side, units_of
from utils.evaluation.report.thumbnails import ThumbnailTask, thumbnail
from utils.evaluation.report.workers import mapped
from utils.evaluation.scoring import QUESTION
from utils.runtime.files import atomic_write, write_errors_as_user_error

log = logging.getLogger(__name__)

PAGE_BYTES = 48_000_000  # pictures share what text and masks leave of it
PICTURE_BYTES = (1_000, 60_000)  # of a JPEG: what it gets in any case, and what is enough
BASE64 = 4 / 3
COMPARED = (
    "B&nbsp;−&nbsp;A has the 95&nbsp;% interval of a paired bootstrap over pictures, and the <i>p</i> of a two-sided "
    "test that exchanges A and B by picture; <i>p</i> is not corrected for the number of rows."
)
HERE = Path(__file__).parent


def write_report(path: Path, folders: list[Path], samples: Sequence[Sample], spec: DatasetSpec) -> None:
    """Write the report of one evaluation, or of two side by side, atomically.

    Args:
        path: of the page.
        folders: output folders of evaluations, with metrics.json, scores.jsonl and predictions.jsonl.
        samples: of the split.
        spec: their data set.

    Raises:
        UserError: a file is missing or does not fit the data, a picture cannot be read, or the page not be written.
    """
    runs = read_runs(folders)
    merged = units_of(runs, spec.unit) == QUESTION
    gallery = build_gallery(runs, {sample.key: sample for sample in samples}, merged, spec.group_titles)
    data = _data_block(gallery.data)
    most = picture_bytes(len(gallery.pictures), len(data.encode("utf-8", "backslashreplace")))
    tasks = [ThumbnailTask(picture, upright, most) for picture, upright in gallery.pictures]
    pictures = list(mapped(thumbnail, tasks))
    page = _page(runs, spec, data, pictures).encode("utf-8", "backslashreplace")
    with write_errors_as_user_error(path):
        atomic_write(path, page)
    count = len(gallery.data["records"])
    log.info("%s: %d masks over %d pictures, %.1f MB", path, count, len(pictures), len(page) / 1e6)


def picture_bytes(count: int, taken: int) -> int:
    """Bytes that each of `count` JPEGs may have where `taken` bytes of the page are text and masks."""
    least, enough = PICTURE_BYTES
    return min(max(int((PAGE_BYTES - taken) / BASE64 / max(count, 1)), least), enough)


def _data_block(data: dict[str, Any]) -> str:
    """JSON that cannot end the element that it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


def _page(runs: list[Run], spec: DatasetSpec, data: str, pictures: list[str]) -> str:
    style = _colours() + (HERE / "page.css").read_text(encoding="utf-8")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    paired, first = summary.comparison(runs), metric_names(runs[0].metrics["overall"])[0]
    return Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(
        policy=f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'",
        style=style,
        script=script,
        title=escape(_title(runs, spec)),
        facts=_facts(runs),
        notes=_notes(runs),
        scores=summary.score_table(runs, spec, paired),
        how_compared=COMPARED if paired else "",
        controls=_part(f"{METRICS[first].title} under controls", summary.control_table(runs, spec)),
        kinds=summary.kind_table(runs),
        answers=summary.answer_table(runs),
        legend=_legend(runs),
        figures="".join(_figure(number, chart) for number, chart in enumerate(_charts(runs), 1)),
        rules="".join(
            f"<details><summary>{escape(run.name)}</summary>{page_facts.rules_text(run)}</details>" for run in runs
        ),
        data=data,
        pictures="\n".join(pictures),
    )


def _title(runs: list[Run], spec: DatasetSpec) -> str:
    data = object_of(runs[0].metrics, "data")
    # Someone else's predictions do not say which model made them.
    what = "PixDLM" if all(object_of(run.metrics, "config") for run in runs) else "Evaluation"
    title = f"{what} on {data.get('dataset', spec.name)}, {data.get('split', 'all')} split"
    return f"{title}: two runs compared" if len(runs) > 1 else title


def _colours() -> str:
    """The overlays' colours as the other pictures of this project have them."""
    predicted, annotated = (f"rgb({', '.join(map(str, colour))})" for colour in (PREDICTED, ANNOTATED))
    return f":root {{ --predicted: {predicted}; --annotated: {annotated}; }}\n"


def _digest(text: str) -> str:
    """What a content security policy calls the inline script or style that alone may take effect."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _facts(runs: list[Run]) -> str:
    columns = [dict(page_facts.facts(run)) for run in runs]
    names = [name for name in columns[0] if any(column[name] for column in columns)]
    head = ""
    if len(runs) > 1:
        sides = "".join(
            f'<th scope="col"><span class="side s{i}">{side(runs, i)}</span> {escape(run.name)}</th>'
            for i, run in enumerate(runs)
        )
        head = f'<thead><tr><td class="corner"></td>{sides}</tr></thead>'
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f'<td class="f{i}">{column[name] or "–"}</td>' for i, column in enumerate(columns))
        + "</tr>"
        for name in names
    )
    kind = "facts both" if len(runs) > 1 else "facts"
    return f'<table class="{kind}">{head}<tbody>{rows}</tbody></table>'


def _legend(runs: list[Run]) -> str:
    """Which colour is which evaluation in the figures."""
    if len(runs) < 2:
        return ""
    named = " ".join(
        f'<span class="side s{i}">■ {side(runs, i)}</span> {escape(run.name)}' for i, run in enumerate(runs)
    )
    return f'<p class="legend">{named}</p>'


def _notes(runs: list[Run]) -> str:
    """What to beware of in each evaluation, and how two differ."""
    said = [(side(runs, i), text) for i, run in enumerate(runs) for text in page_facts.warnings(run)]
    notes = [f"<p>{f'<b>{letter}</b>: ' if letter else ''}{escape(text)}</p>" for letter, text in said]
    listed = "".join(f"<li>{escape(note)}</li>" for note in page_facts.differences(runs))
    notes += [f"<p>The two differ in more than their scores:</p><ul>{listed}</ul>"] if listed else []
    return f'<div class="note">{"".join(notes)}</div>' if notes else ""


def _part(title: str, inside: str) -> str:
    return f"<h3>{escape(title)}</h3>{inside}" if inside else ""


def _charts(runs: list[Run]) -> list[Chart]:
    names = [f"{side(runs, i)} ({run.name})" if len(runs) > 1 else run.name for i, run in enumerate(runs)]
    by_name: Mapping[str, Run] = dict(zip(names, runs, strict=True))
    sizes = {
        name: [(pair.area / pair.pixels, pair.iou) for pair in run.pairs if pair.target is not None]
        for name, run in by_name.items()
    }
    calibrated = {name: found for name, run in by_name.items() if (found := object_of(run.metrics, "calibration"))}
    charts = [
        iou_histogram({name: [pair.iou for pair in run.pairs] for name, run in by_name.items()}),
        size_chart(sizes),
        reliability(calibrated),
    ]
    return [chart for chart in charts if chart is not None]


def _figure(number: int, chart: Chart) -> str:
    table = summary.plain_table(chart.header, chart.rows, "Numbers of the figure")
    caption = f"<figcaption><b>Figure {number}.</b> {chart.caption}</figcaption>"
    return f"<figure>{chart.svg}{caption}<details><summary>Numbers</summary>{table}</details></figure>"
