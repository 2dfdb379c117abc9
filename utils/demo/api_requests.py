"""What a request to the API asks, read with limits; each refusal is a `Refused`: status, message and cure."""

from __future__ import annotations

import asyncio
import base64
import binascii
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from utils.demo.pictures import CURE, Limits, check_picture
from utils.demo.service import Service
from utils.runtime.errors import UserError
from utils.runtime.json_files import parse_json

FIELDS_BYTES = 1 << 20  # of a request beside its picture
DRAINED, DRAIN_SECONDS = 8, 10.0  # times the limit, and how long what is refused is read on
BASE64 = 4 / 3
MULTIPART, JSON = "multipart/form-data", "application/json"
TOO_SLOW = 408
FORMS = f"Send {MULTIPART} with a file `image` and a field `question`, or {JSON} with `image` (base64) and `question`."
NAMES = ("image", "question", "polygons", "tolerance")


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        message: what is wrong.
        cure: what to do.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, cure: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.cure, self.headers = status, message, cure, headers or {}


@dataclass(frozen=True)
class Asked:
    """A request that can be answered.

    Args:
        picture: the file, whose header was looked at.
        questions: that the model can be asked.
        tolerance: of polygons, in pixels; None where none are wanted.
    """

    picture: bytes
    questions: list[str]
    tolerance: float | None


async def read_request(request: Request, service: Service) -> Asked:
    """Read and check a request.

    Raises:
        Refused: 400, 408, 413, 415 or 422.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in (MULTIPART, JSON):
        raise Refused(415, f"the content type {kind or '(none)'} is not read", FORMS)
    limits = service.limits
    scale = BASE64 if kind == JSON else 1
    body = await _body(request, int(limits.upload_bytes * scale) + FIELDS_BYTES, limits)
    fields = _json_fields(body) if kind == JSON else await _form_fields(request, body, limits)
    picture = fields["image"]
    if len(picture) > limits.upload_bytes:
        raise _too_large(limits)
    questions, tolerance = _questions(fields["question"], limits), _tolerance(fields)
    for number, question in enumerate(questions, 1):
        try:
            service.check_question(question, "the question" if len(questions) == 1 else f"question {number}")
        except UserError as error:
            raise Refused(422, str(error), "Ask a short question in plain words.") from error
    try:
        await run_in_threadpool(check_picture, picture, limits)
    except UserError as error:
        raise Refused(422, str(error), CURE) from error
    return Asked(picture, questions, tolerance)


def _too_large(limits: Limits) -> Refused:
    cure = f"Send a picture file of at most {limits.upload_bytes / 2**20:.3g} MB; a JPEG of less quality is smaller."
    return Refused(413, "the request is too large", cure, {"Connection": "close"})


class Incoming:
    """What a client sends, and whether all of it has come.

    Args:
        receive: of the application.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive, self.ended = receive, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drain(self, most: int) -> None:
        """Read on what is refused, and forget it: clients look at the answer when they have sent everything.

        Clients that send more than `most` bytes, or slowly, are cut off all the same.
        """

        async def read() -> None:
            count = 0
            while not self.ended and count <= most:
                count += len((await self()).get("body", b""))

        with suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(read(), DRAIN_SECONDS)


async def _body(request: Request, most: int, limits: Limits) -> bytes:
    """The body, of which no more than `most` bytes are held and for which nobody waits for ever."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most:
        raise _too_large(limits)
    body = bytearray()

    async def read() -> None:
        async for piece in request.stream():
            body.extend(piece)
            if len(body) > most:
                raise _too_large(limits)

    try:
        await asyncio.wait_for(read(), limits.seconds)
    except (TimeoutError, asyncio.TimeoutError) as error:
        cure = "Send a smaller picture, or use a faster connection."
        raise Refused(
            TOO_SLOW, f"the request did not arrive in {limits.seconds:g} s", cure, {"Connection": "close"}
        ) from error
    except ClientDisconnect as error:
        raise Refused(400, "the request was cut off", "Send it whole.") from error
    return bytes(body)


def _json_fields(body: bytes) -> dict[str, Any]:
    try:
        # not strict, which takes a second and 200 MB for each MB of hostile lists; what is used is checked one by one
        fields = parse_json(body, "the body", "send an object with image and question", strict=False)
    except UserError as error:
        raise Refused(400, str(error), FORMS) from error
    if not isinstance(fields, dict):
        raise Refused(400, "the body is no JSON object", FORMS)
    fields = _known(fields)
    if not isinstance(fields["image"], str):
        raise Refused(400, "image is no text", "Give the picture file in base64.")
    try:
        text = fields["image"].partition(",")[2] if fields["image"].startswith("data:") else fields["image"]
        fields["image"] = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(400, f"image is no base64 ({error})", "Encode the whole picture file in base64.") from error
    if isinstance(fields["question"], str):
        fields["question"] = [fields["question"]]
    return fields


async def _form_fields(request: Request, body: bytes, limits: Limits) -> dict[str, Any]:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    whole = Request(request.scope, receive)
    try:
        async with whole.form(max_files=1, max_fields=limits.questions + 8, max_part_size=FIELDS_BYTES) as form:
            fields: dict[str, Any] = {"question": form.getlist("question")} if "question" in form else {}
            fields |= {name: form[name] for name in form if name != "question"}
            fields = _known(fields)
            if not isinstance(fields["image"], UploadFile):
                raise Refused(400, "image is no file", 'Send the picture as a file: curl -F "image=@picture.jpg".')
            fields["image"] = await fields["image"].read()
            return fields
    except HTTPException as error:  # of Starlette, where the form cannot be parsed
        raise Refused(400, f"the form cannot be read ({error.detail})", FORMS) from error


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    missing = [name for name in ("image", "question") if name not in fields]
    if missing:
        raise Refused(400, f"{' and '.join(missing)} missing", FORMS)
    unknown = sorted(set(fields) - set(NAMES))
    if unknown:
        names = ", ".join(unknown)[:200].encode("utf-8", "backslashreplace").decode()
        raise Refused(400, f"unknown: {names}", f"Known are {', '.join(NAMES)}.")
    return dict(fields)


def _questions(given: Any, limits: Limits) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise Refused(400, "question is neither a text nor a list of texts", FORMS)
    if not 1 <= len(given) <= limits.questions:
        raise Refused(422, f"{len(given)} questions", f"Ask 1 to {limits.questions} questions a request.")
    return given


def _tolerance(fields: dict[str, Any]) -> float | None:
    """Of polygons; None where they are not wanted."""
    wanted = fields.get("polygons", False)
    if str(wanted).lower() not in ("true", "false", "1", "0"):
        raise Refused(400, "polygons is neither true nor false", "Send true or false.")
    try:
        tolerance = float(fields.get("tolerance", 1.0))
    except (TypeError, ValueError, OverflowError):
        tolerance = math.nan
    if not 0 <= tolerance <= 1000:
        raise Refused(400, "tolerance is no number from 0 to 1000", "Send the pixels by which polygons may be off.")
    return tolerance if str(wanted).lower() in ("true", "1") else None
