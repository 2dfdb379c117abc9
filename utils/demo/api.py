"""The HTTP API: POST /api/segment and GET /api/health. Every answer is JSON, errors with a message and its cure."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import secrets
import time
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from utils.demo.api_requests import DRAINED, TOO_SLOW, Asked, Incoming, Refused, read_request
from utils.demo.pictures import CURE
from utils.demo.service import Service, UnreadablePicture
from utils.demo.worker import Busy, Gone, Job
from utils.runtime.errors import UserError

log = logging.getLogger(__name__)

READERS = 4  # for each place in the line, so many requests may be on their way in
CLIENT_GONE = 499  # nobody reads it; for the log


class Api:
    """The two routes.

    Args:
        service: the model.
        auth: (user, password) that a request must bring; None for nobody's.
    """

    def __init__(self, service: Service, auth: tuple[str, str] | None = None) -> None:
        self.service, self.auth = service, auth
        self._reading = 0

    async def health(self, request: Request) -> Response:
        """That the server runs, and how long the line is; needs no password."""
        worker = self.service.worker
        return JSONResponse({"status": "ok", "waiting": worker.waiting, "queue": worker.capacity})

    async def segment(self, request: Request) -> Response:
        """Masks for questions about a picture."""
        started, incoming = time.monotonic(), Incoming(request.receive)
        request = Request(request.scope, incoming)
        try:
            self._check_password(request)
            asked = await self._read(request)
            answers = await self._answer(request, self._submit(asked))
        except Refused as refused:
            if refused.status != TOO_SLOW:
                await incoming.drain(DRAINED * self.service.limits.upload_bytes)
            return error_response(refused)
        return JSONResponse({**answers, "seconds": round(time.monotonic() - started, 3)})

    def _check_password(self, request: Request) -> None:
        if self.auth is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(given, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, ValueError):
            user = password = ""
        right = [
            secrets.compare_digest(one.encode(), other.encode())
            for one, other in zip((user, password), self.auth, strict=True)
        ]
        if scheme.lower() != "basic" or not all(right):
            challenge = {"WWW-Authenticate": 'Basic realm="PixDLM", charset="UTF-8"'}
            raise Refused(401, "user or password is missing or wrong", "Send HTTP basic authentication.", challenge)

    async def _read(self, request: Request) -> Asked:
        """The request; what would find no place in the line is refused before it is read."""
        worker = self.service.worker
        if self._reading >= READERS * (worker.capacity + 1):
            raise too_busy(Busy(f"{self._reading} requests are being read", 1))
        self._reading += 1
        try:
            worker.check_free()
            return await read_request(request, self.service)
        except Busy as busy:
            raise too_busy(busy) from busy
        finally:
            self._reading -= 1

    def _submit(self, asked: Asked) -> Job[dict[str, Any]]:
        try:
            return self.service.segment(asked.picture, asked.questions, asked.tolerance)
        except Busy as busy:
            raise too_busy(busy) from busy

    async def _answer(self, request: Request, job: Job[dict[str, Any]]) -> dict[str, Any]:
        """The result of a job, whose place is given to others where the client leaves or waits too long."""
        result = asyncio.wrap_future(job.result)
        left = asyncio.ensure_future(_disconnected(request))
        seconds = self.service.limits.seconds
        try:
            await asyncio.wait({result, left}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
        except UnreadablePicture as error:
            raise Refused(422, str(error), CURE) from error
        except UserError as error:
            raise Refused(500, str(error), "Tell whoever runs this server.") from error
        except Gone as error:
            raise Refused(503, "the server is ending", "Try again later.", {"Retry-After": "5"}) from error
        except Exception as error:  # logged by the worker
            raise Refused(500, "the server failed", "Tell whoever runs this server; its log says more.") from error
        finally:
            left.cancel()
            if not result.done():
                self.service.worker.cancel(job)
                result.add_done_callback(lambda done: done.cancelled() or done.exception())  # seen, and done with
        if left.done() and not left.cancelled():
            raise Refused(CLIENT_GONE, "the client left", "")
        cure = "Try again later, or ask fewer questions at once."
        raise Refused(503, f"no answer within {seconds:g} s", cure, {"Retry-After": "5"})


async def _disconnected(request: Request) -> None:
    """Returns when the client has left; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def too_busy(busy: Busy) -> Refused:
    """429."""
    cure = "Wait for the time in Retry-After and send the request again."
    return Refused(429, str(busy), cure, {"Retry-After": str(busy.seconds)})


def error_response(refused: Refused) -> Response:
    """An error as JSON."""
    content = {"error": {"status": refused.status, "message": refused.message, "cure": refused.cure}}
    return JSONResponse(content, refused.status, refused.headers)


async def on_http_error(request: Request, error: Exception) -> Response:
    """No such address or method, as JSON; the page's own errors stay short too."""
    assert isinstance(error, HTTPException)
    cure = "The API has POST /api/segment and GET /api/health."
    return error_response(Refused(error.status_code, str(error.detail), cure, dict(error.headers or {})))


async def on_failure(request: Request, error: Exception) -> Response:
    """What nobody thought of, without a traceback; uvicorn logs it."""
    return error_response(Refused(500, "the server failed", "Tell whoever runs this server; its log says more."))


def build_api(service: Service, auth: tuple[str, str] | None = None) -> FastAPI:
    """An application with the API's routes; no pages of documentation, which would load scripts from elsewhere."""
    app = FastAPI(title="PixDLM", docs_url=None, redoc_url=None, openapi_url=None)
    api = Api(service, auth)
    app.add_route("/api/segment", api.segment, methods=["POST"])
    app.add_route("/api/health", api.health, methods=["GET"])
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(Exception, on_failure)
    return app
