"""The HTML of the page's own parts: picture and masks with their legend, examples, history, messages.

Whatever a visitor or the model wrote is escaped, braces and dollars too, since Gradio takes them for templates.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.inputs.images import read_image
from utils.demo.examples import Example
from utils.demo.layers import preview
from utils.demo.sessions import KeptAnswer, KeptMask, OpenPicture, Visitor

HERE = Path(__file__).parent
THUMBNAIL = 240
HEADER = """<header class="pix-header"><h1>PixDLM</h1>
<p>Ask about a drone photograph; the answer is marked in it.</p></header>"""
EMPTY = """<div class="pix-board pix-empty"><p>Drop a picture or choose an example, then ask.<br>
The masks of your answers appear here.</p></div>"""


def safe(text: str) -> str:
    """A text as HTML that shows it, and that no template engine reads."""
    escaped = html.escape(text)
    for letter in "{}$`\\":
        escaped = escaped.replace(letter, f"&#{ord(letter)};")
    return escaped


def board(picture: OpenPicture | None) -> str:
    """The picture, the masks over it, the opacity slider and the legend."""
    if picture is None:
        return EMPTY
    photo = f'<img class="pix-photo" alt="{safe(picture.name)}" src="{picture.shown}">'
    shown = "".join(_layers(answer.number, mask) for answer in picture.answers for mask in answer.masks)
    ratio = f"{picture.width} / {picture.height}"
    stage = f'<div class="pix-stage" style="aspect-ratio: {ratio}; --ratio: {ratio}">{photo}{shown}</div>'
    legend = "".join(_row(answer, picture) for answer in reversed(picture.answers))
    return f'<div class="pix-board">{stage}{_tools(picture)}<ol class="pix-legend">{legend}</ol></div>'


def _layers(number: int, mask: KeptMask) -> str:
    images = (("inside", mask.inside), ("outline", mask.outline))
    return "".join(
        f'<img class="pix-layer pix-{kind}" data-answer="{number}" alt="" src="{source}">' for kind, source in images
    )


def _tools(picture: OpenPicture) -> str:
    size = f"{safe(picture.name)}, {picture.width} × {picture.height}"
    everything = ""
    if picture.answers:
        url = json_url(picture_json(picture))
        everything = (
            f'<a download="answers.json" href="{url}">All answers (JSON)</a>'
            '<button type="button" data-remove="all">Remove all</button>'
        )
    return (
        '<div class="pix-tools"><label class="pix-opacity">Opacity '
        f'<input type="range" min="0" max="100" value="50" aria-label="Opacity of the masks"></label>{everything}'
        f'<span class="pix-name">{size}</span></div>'
    )


def _row(answer: KeptAnswer, picture: OpenPicture) -> str:
    number = answer.number
    swatches = "".join(f'<i style="background: rgb{mask.colour}"></i>' for mask in answer.masks) or "<i></i>"
    sure = ", ".join(f"{mask.confidence:.0%}" for mask in answer.masks)
    facts = f"{safe(answer.verdict)}{f' Confidence {sure}.' if sure else ''}"
    many = len(answer.masks) > 1
    links = [
        f'<a download="mask-{number}{f"-{place}" if many else ""}.png" href="{mask.file}">'
        f"Mask{f' {place}' if many else ''} (PNG)</a>"
        for place, mask in enumerate(answer.masks, 1)
    ]
    links.append(f'<a download="answer-{number}.json" href="{json_url(answer_file(answer, picture))}">JSON</a>')
    links.append(f'<button type="button" data-remove="{number}">Remove</button>')
    eye = (
        f'<button type="button" class="pix-eye" data-answer="{number}" aria-pressed="true" '
        f'aria-label="Show or hide this answer">{swatches}</button>'
    )
    return (
        f'<li data-answer="{number}">{eye}<div><b>{safe(answer.question)}</b><p>{facts}</p>'
        f'<p class="pix-links">{"".join(links)}</p></div></li>'
    )


def answer_file(answer: KeptAnswer, picture: OpenPicture) -> dict[str, Any]:
    """An answer as it is downloaded: what the API gives, and the picture that it is about."""
    return {"picture": picture.name, "width": picture.width, "height": picture.height, **answer.record}


def picture_json(picture: OpenPicture) -> dict[str, Any]:
    """All kept answers about a picture as they are downloaded."""
    records = [answer.record for answer in picture.answers]
    return {"picture": picture.name, "width": picture.width, "height": picture.height, "answers": records}


def json_url(value: Any) -> str:
    """A value as an address that holds its JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace")
    return f"data:application/json;base64,{base64.b64encode(text).decode()}"


def history(visitor: Visitor) -> str:
    """All questions of a visitor, the newest first."""
    if not visitor.history:
        return '<p class="pix-hint">Nothing has been asked yet.</p>'
    rows = "".join(
        f"<tr>{''.join(f'<td>{safe(cell)}</td>' for cell in line)}</tr>" for line in reversed(visitor.history)
    )
    head = "<tr><th>Picture</th><th>Question</th><th>Answer</th></tr>"
    return f'<table class="pix-history"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def examples(shown: Sequence[Example]) -> str:
    """Buttons with a thumbnail and a question each."""
    if not shown:
        return ""
    buttons = "".join(
        f'<button type="button" data-example="{number}" title="{safe(one.question)}">'
        f'<img alt="" src="{preview(read_image(one.path), THUMBNAIL)}"><span>{safe(one.question)}</span></button>'
        for number, one in enumerate(shown)
    )
    return f'<div class="pix-examples"><p>Examples</p><div>{buttons}</div></div>'


def notice(message: str, alarm: bool = True) -> str:
    """A message to the visitor; "" takes it away."""
    if not message:
        return ""
    role, kind = ("alert", "pix-alarm") if alarm else ("status", "pix-calm")
    return f'<div class="pix-notice {kind}" role="{role}">{safe(message)}</div>'
