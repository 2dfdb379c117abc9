"""utils.demo.api and api_requests: every status, and what a client must never see."""

from __future__ import annotations

import base64
import json
import socket
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

from model.segmenter import PixDLM  # noqa: E402
from tests.load_api import load  # noqa: E402
from tests.serving import SEGMENT, Reply, ask, ask_json, form, running, send  # noqa: E402
from tests.utils.demo.conftest import LIMITS  # noqa: E402
from utils.demo.api import build_api  # noqa: E402
from utils.demo.pictures import Limits  # noqa: E402
from utils.demo.service import Service  # noqa: E402

QUESTION = "Mark the yellow car."


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    return make_service()


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    with running(build_api(service)) as address:
        yield address


def test_an_answer_is_the_model_s(address: str, picture: Path, pixdlm: PixDLM) -> None:
    reply = ask(address, picture, QUESTION, "What is the road?", polygons="true", tolerance="0")
    assert reply.status == 200, reply.text
    assert (reply.json["width"], reply.json["height"]) == (128, 96) and reply.json["seconds"] > 0
    assert len(reply.json["answers"]) == 2
    for found, question in zip(reply.json["answers"], (QUESTION, "What is the road?"), strict=True):
        expected = pixdlm.segment(picture, question)
        assert found["question"] == question and found["text"] == expected.text
        assert found["status"] == expected.status == "ok" and found["no_target"] is False
        for mask, true, score, box in zip(found["masks"], expected.masks, expected.scores, expected.boxes, strict=True):
            assert (coco.decode(mask["rle"]) == true).all() and mask["area"] == true.sum() > 0
            assert mask["confidence"] == pytest.approx(float(score)) and mask["box"] == box.tolist()
            again = coco.decode(coco.merge(coco.frPyObjects(mask["polygons"], 96, 128)))
            assert (again == true).all()


def test_json_and_form_give_the_same(address: str, picture: Path) -> None:
    image = base64.b64encode(picture.read_bytes()).decode()
    by_form = ask(address, picture, QUESTION).json["answers"]
    assert "polygons" not in by_form[0]["masks"][0]
    for sent in (image, f"data:image/png;base64,{image}"):
        for question in (QUESTION, [QUESTION]):
            assert ask_json(address, {"image": sent, "question": question}).json["answers"] == by_form
    reply = ask_json(address, {"image": image, "question": QUESTION, "polygons": True, "tolerance": 2})
    assert len(reply.json["answers"][0]["masks"][0]["polygons"][0]) >= 6


def test_health(address: str) -> None:
    reply = send(address, path="/api/health", method="GET")
    assert reply.status == 200 and reply.json == {"status": "ok", "waiting": 0, "queue": 8}


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pieces = [b"\x89PNG\r\n\x1a\n"]
    for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")):
        pieces.append(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
    return b"".join(pieces)


def image_file(kind: str, size: tuple[int, int] = (64, 48)) -> bytes:
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (b"", "the file is empty"),
        (b"no picture", "of no known kind"),
        (image_file("JPEG")[:-200], "damaged or no picture"),
        (png_header(60_000, 60_000), "too large to decode at once"),
        (png_header(1200, 1000), "more than the 1 million"),
        (image_file("EPS"), "EPS is not taken"),
    ],
)
def test_pictures_that_cannot_be_read(address: str, picture: bytes, message: str) -> None:
    reply = ask(address, picture, QUESTION)
    assert reply.status == 422 and message in reply.error["message"]
    assert f"a picture of {len(picture)} bytes" in reply.error["message"]


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "the question is empty"),
        (" \n", "the question is empty"),
        ("\u200b", "the question shows nothing"),
        ("why " * 2000, "shorten the question"),
        ("a" * 200_000, "shorten the question"),
        ("the [SEG0] car", "special token '[SEG0]'"),
        ("Which <image>?", "special token '<image>'"),
    ],
)
def test_questions_that_cannot_be_asked(address: str, picture: Path, question: str, message: str) -> None:
    reply = ask(address, picture, question)
    assert reply.status == 422 and message in reply.error["message"]


def test_of_several_questions_the_wrong_one_is_named(address: str, picture: Path) -> None:
    assert "question 2" in ask(address, picture, QUESTION, "").error["message"]
    reply = ask(address, picture, *[QUESTION] * 5)
    assert reply.status == 422 and "1 to 4" in reply.error["cure"]


IMAGE = base64.b64encode(image_file("PNG")).decode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{{{", "the body"),
        (b"[" * 100_000, "the body"),
        ([], "no JSON object"),
        ({"image": IMAGE}, "question missing"),
        ({"question": QUESTION}, "image missing"),
        ({}, "image and question missing"),
        ({"image": 3, "question": QUESTION}, "image is no text"),
        ({"image": "*", "question": QUESTION}, "image is no base64"),
        ({"image": "ä", "question": QUESTION}, "image is no base64"),
        ({"image": IMAGE, "question": {"a": 1}}, "neither a text nor a list"),
        ({"image": IMAGE, "question": [1]}, "neither a text nor a list"),
        ({"image": IMAGE, "question": QUESTION, "imaeg": 1}, "unknown: imaeg"),
        (b'{"image": "", "question": "a", "\\ud800": 1}', "unknown: \\ud800"),
        ({"image": IMAGE, "question": QUESTION, "polygons": "maybe"}, "polygons is neither"),
        ({"image": IMAGE, "question": QUESTION, "tolerance": "wide"}, "tolerance is no number"),
        ({"image": IMAGE, "question": QUESTION, "tolerance": -1}, "tolerance is no number"),
        ({"image": IMAGE, "question": QUESTION, "tolerance": 10**400}, "tolerance is no number"),
    ],
)
def test_json_that_asks_nothing(address: str, body: Any, message: str) -> None:
    reply = ask_json(address, body)
    assert reply.status == 400 and message in reply.error["message"]


def test_hostile_lists_take_little_more_than_they_are_large(address: str) -> None:
    body = b'{"image": "", "question": "a", "x": [' + b"0," * 80_000 + b"0]}"
    tracemalloc.start()
    assert send(address, body, {"Content-Type": "application/json"}).status == 400
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * len(body)


def test_forms_that_ask_nothing(address: str, picture: Path) -> None:
    data = picture.read_bytes()
    for fields, message in (
        ([("question", QUESTION)], "image missing"),
        ([("image", data)], "question missing"),
        ([("image", "text"), ("question", QUESTION)], "image is no file"),
        ([("image", data), ("image", data), ("question", QUESTION)], "Too many files"),
        ([("image", data), *[("question", QUESTION)] * 50], "Too many fields"),
    ):
        reply = send(address, *form(fields))
        assert reply.status == 400 and message in reply.error["message"], reply.text
    for kind in ("multipart/form-data", "multipart/form-data; boundary=other"):
        reply = send(address, form([("image", data)])[0], {"Content-Type": kind})
        assert reply.status == 400 and reply.error["cure"]


@pytest.mark.parametrize("kind", ["", "text/plain", "image/jpeg", "application/x-www-form-urlencoded"])
def test_content_types_that_are_not_read(address: str, picture: Path, kind: str) -> None:
    reply = send(address, picture.read_bytes(), {"Content-Type": kind} if kind else {})
    assert reply.status == 415 and "multipart/form-data" in reply.error["cure"]


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("size", [LIMITS.upload_bytes + 1, 4_000_000])
def test_too_large_is_told_whether_or_not_the_size_was(address: str, size: int, declared: bool) -> None:
    body, headers = form([("image", bytes(size)), ("question", QUESTION)])
    pieces = body if declared else (body[start : start + 65536] for start in range(0, len(body), 65536))
    reply = send(address, pieces, headers)
    assert reply.status == 413 and "0.191 MB" in reply.error["cure"]
    reply = ask_json(address, {"image": base64.b64encode(bytes(size)).decode(), "question": QUESTION})
    assert reply.status == 413


def test_other_addresses_and_methods(address: str) -> None:
    assert send(address, path="/api/nothing").error["status"] == 404
    assert send(address, path="/", method="GET").error["status"] == 404
    assert send(address, method="GET").error["status"] == 405


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_a_password_is_asked_for(service: Service, picture: Path) -> None:
    with running(build_api(service, ("anna", "gehéim:x"))) as address:
        for given in ("", "Basic", "Basic !", basic("anna", "x"), basic("", ""), "Bearer " + basic("anna", "gehéim:x")):
            reply = ask(address, picture, QUESTION, headers={"Authorization": given} if given else {})
            assert reply.status == 401 and reply.headers["www-authenticate"].startswith("Basic ")
            assert reply.error["message"]
        right = {"Authorization": basic("anna", "gehéim:x")}
        assert ask(address, picture, QUESTION, headers=right).status == 200
        assert send(address, path="/api/health", method="GET").status == 200


@pytest.fixture
def held(service: Service) -> Iterator[threading.Event]:
    """The model is busy until this is set."""
    free, begun = threading.Event(), threading.Event()
    service.worker.submit(lambda checkpoint: (begun.set(), free.wait(30)))
    assert begun.wait(10)
    yield free
    free.set()


def waiting(service: Service, count: int) -> None:
    """Waits until that many requests wait."""
    ends = time.monotonic() + 10
    while service.worker.waiting != count:
        assert time.monotonic() < ends, f"{service.worker.waiting} wait, not {count}"
        time.sleep(0.01)


def test_a_full_line_is_told_and_is_no_end(
    make_service: Callable[..., Service], service: Service, address: str, picture: Path, held: threading.Event
) -> None:
    with ThreadPoolExecutor(9) as clients:
        replies = [clients.submit(ask, address, picture, QUESTION) for _ in range(8)]
        waiting(service, 8)
        full = ask(address, picture, QUESTION)
        assert full.status == 429 and int(full.headers["retry-after"]) >= 1 and "8 others" in full.error["message"]
        held.set()
        assert [reply.result().status for reply in replies] == [200] * 8
    assert ask(address, picture, QUESTION).status == 200


def test_clients_that_leave_give_their_places_to_others(
    service: Service, address: str, picture: Path, held: threading.Event
) -> None:
    body, headers = form([("image", picture.read_bytes()), ("question", QUESTION)])
    head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": str(len(body))}.items())
    host = urlsplit(address)
    gone = []
    for _ in range(8):
        gone.append(socket.create_connection((host.hostname, host.port)))
        gone[-1].sendall(f"POST {SEGMENT} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body)
    waiting(service, 8)
    for connection in gone:
        connection.close()
    waiting(service, 0)
    with ThreadPoolExecutor(1) as client:
        reply = client.submit(ask, address, picture, QUESTION)
        waiting(service, 1)
        held.set()
        assert reply.result().status == 200


def test_an_answer_that_is_being_written_ends_when_its_client_leaves(
    service: Service, address: str, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, ended = threading.Event(), threading.Event()

    def endless(features: Any, question: str, most: int, heard: Callable[[str], None]) -> None:
        try:
            while True:
                started.set()
                heard("a word")
                time.sleep(0.01)
        finally:
            ended.set()

    monkeypatch.setattr(service.pixdlm, "segment", endless)
    body, headers = form([("image", picture.read_bytes()), ("question", QUESTION)])
    with pytest.raises(TimeoutError):
        send(address, body, headers, timeout=1.0)
    assert started.is_set() and ended.wait(5)


def test_waiting_ends(make_service: Callable[..., Service], picture: Path) -> None:
    service = make_service(Limits(seconds=0.3))
    free = threading.Event()
    service.worker.submit(lambda checkpoint: free.wait(30))
    with running(build_api(service)) as address:
        reply = ask(address, picture, QUESTION)
        assert reply.status == 503 and "0.3 s" in reply.error["message"] and reply.headers["retry-after"]
        assert service.worker.waiting == 0
        connection = socket.create_connection((urlsplit(address).hostname, urlsplit(address).port))
        connection.sendall(f"POST {SEGMENT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n".encode())
        connection.sendall(b"Content-Type: application/json\r\n\r\n{")
        connection.settimeout(5)
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")
        connection.close()
    free.set()


def test_nothing_found_and_failures_are_told(
    service: Service, address: str, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = service.pixdlm.segment(picture, QUESTION)
    nothing = type(answer)(answer.masks[:0], answer.scores[:0], answer.boxes[:0], "Nothing.", 0.0, "no_seg", QUESTION)
    monkeypatch.setattr(service.pixdlm, "segment", lambda *given: nothing)
    (found,) = ask(address, picture, QUESTION).json["answers"]
    assert found["no_target"] is True and found["status"] == "no_seg" and found["masks"] == []

    def broken(*given: Any) -> None:
        raise RuntimeError("secret.py: CUDA out of memory")

    monkeypatch.setattr(service.pixdlm, "segment", broken)
    reply = ask(address, picture, QUESTION)
    assert reply.status == 500 and "secret" not in reply.text and reply.error["cure"]


def test_many_clients_some_of_them_hostile(address: str, pixdlm: PixDLM) -> None:
    """As tests/load_api.py, in small."""
    report = load(address, pixdlm, LIMITS, requests=30, clients=8, pictures=2)
    assert report.lost == 0 and report.crossed == 0 and report.unexpected == []
    assert report.statuses[200] == 24 and sum(report.statuses.values()) == 30


def test_replies_name_no_server(address: str) -> None:
    reply: Reply = send(address, path="/api/health", method="GET")
    assert "server" not in reply.headers and json.loads(reply.text)
