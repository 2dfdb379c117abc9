"""Load on the demo's HTTP API: many clients, one request in five hostile; what is lost, what is crossed, how fast.

    python tests/load_api.py                # 200 requests of 8 clients to PixDLM/mini
    python tests/load_api.py --requests 1000 --clients 32 --queue 8

Every answer is held against what the model itself says to that question about that picture. Ends with status 1 where
a request has no answer, an answer is another one's, or a hostile request is not refused as it must be.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from model.segmenter import PixDLM  # noqa: E402
from tests.serving import SEGMENT, Reply, ask, ask_json, form, running, send  # noqa: E402
from utils.demo.api import build_api  # noqa: E402
from utils.demo.pictures import Limits  # noqa: E402
from utils.demo.service import Service  # noqa: E402

QUESTIONS = ("Mark the yellow car.", "Where is the road?", "Show the largest roof.", "Which field is green?")
PICTURES, SMALLEST = 6, 96
TRIES = 200  # of a request that is told to come again
Hostile = tuple[int, Callable[[str], Reply]]


@dataclass
class Report:
    """What became of the requests.

    Attributes:
        lost: had no answer.
        crossed: had another one's answer.
        unexpected: (what was expected, what came) of hostile requests.
        statuses: final ones; those that were sent again are counted in `again`.
        latencies: seconds of the answered ones, with the waiting for another try.
        seconds: of all together.
    """

    lost: int = 0
    crossed: int = 0
    again: int = 0
    unexpected: list[tuple[int, int]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Nothing is lost, crossed or unexpected."""
        return not (self.lost or self.crossed or self.unexpected)


def drawn_picture(number: int) -> bytes:
    """A picture of its own size and colours."""
    draw = np.random.default_rng(number)
    pixels = np.repeat(np.repeat(draw.integers(0, 256, (6 + number, 8, 3), dtype=np.uint8), 16, 0), 16, 1)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def hostile_requests(limits: Limits) -> list[Hostile]:
    """The status that each must have, and how it is sent."""
    picture, question = drawn_picture(0), QUESTIONS[0]
    return [
        (422, lambda to: ask(to, b"no picture at all", question)),
        (422, lambda to: ask(to, picture[:-40], question)),
        (422, lambda to: ask(to, picture, " ")),
        (422, lambda to: ask(to, picture, "why " * 3000)),
        (422, lambda to: ask(to, picture, "the [SEG0] car")),
        (413, lambda to: ask(to, bytes(limits.upload_bytes + 1), question)),
        (413, lambda to: ask(to, bytes(4 * limits.upload_bytes), question)),
        (400, lambda to: send(to, *form([("question", question)]))),
        (400, lambda to: send(to, *form([("image", picture)]))),
        (400, lambda to: ask_json(to, b'{"image": [[[[')),
        (400, lambda to: ask_json(to, {"image": "no base64!", "question": question})),
        (415, lambda to: send(to, picture, {"Content-Type": "image/png"})),
        (404, lambda to: send(to, picture, path="/api/segments")),
        (405, lambda to: send(to, path=SEGMENT, method="GET")),
    ]


def load(address: str, pixdlm: PixDLM, limits: Limits, requests: int, clients: int, pictures: int = PICTURES) -> Report:
    """Send requests, every fifth of them hostile, from several clients at once.

    Args:
        address: of the server.
        pixdlm: the model that it serves, to ask before.
        limits: of the server.
        requests: in all.
        clients: that send one after the other.
        pictures: that are asked about.
    """
    files = [drawn_picture(number) for number in range(pictures)]
    expected = {}
    for number, picture in enumerate(files):
        for answer in pixdlm.segment(picture, list(QUESTIONS)):
            expected[number, answer.question] = answer.masks.shape[1:], answer.rles
    distinct = {str(rles) for _, rles in expected.values()}
    assert len(distinct) == len(expected), "two answers are the same, so that crossing them would not be seen"
    hostile, report = hostile_requests(limits), Report()

    def one(number: int) -> None:
        started = time.perf_counter()
        try:
            if number % 5 == 4:
                status, attack = hostile[number // 5 % len(hostile)]
                reply = patiently(lambda: attack(address), report)
                if reply.status != status or not reply.error:
                    report.unexpected.append((status, reply.status))
            else:
                which, question = number % pictures, QUESTIONS[number // pictures % len(QUESTIONS)]
                reply = patiently(lambda: ask(address, files[which], question), report)
                report.crossed += not belongs(reply, question, *expected[which, question])
                report.latencies.append(time.perf_counter() - started)
            report.statuses[reply.status] += 1
        except (OSError, AssertionError, ValueError) as error:
            print(f"request {number}: {type(error).__name__} {error}", file=sys.stderr)
            report.lost += 1

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(one, range(requests)))
    report.seconds = time.perf_counter() - started
    return report


def patiently(request: Callable[[], Reply], report: Report) -> Reply:
    """The reply, sent again as long as the line is full."""
    for _ in range(TRIES):
        reply = request()
        if reply.status != 429:
            break
        report.again += 1
        time.sleep(min(0.2, float(reply.headers["retry-after"])))
    return reply


def belongs(reply: Reply, question: str, frame: tuple[int, int], rles: list[dict]) -> bool:
    """Whether a reply is the answer to that question about that picture."""
    if reply.status != 200:
        return False
    (answer,) = reply.json["answers"]
    size = (reply.json["height"], reply.json["width"])
    return (size, answer["question"], [mask["rle"] for mask in answer["masks"]]) == (frame, question, rles)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="PixDLM/mini")
    for name, default in (("requests", 200), ("clients", 8), ("queue", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    limits = Limits(upload_bytes=1 << 20)
    pixdlm = PixDLM.from_pretrained(args.model)
    service = Service(pixdlm, limits, args.queue, 64)
    with running(build_api(service)) as address:
        report = load(address, pixdlm, limits, args.requests, args.clients)
    service.close()
    late = quantiles(report.latencies, n=20)[-1]
    print(f"{args.requests} requests of {args.clients} clients in {report.seconds:.1f} s, a line of {args.queue}")
    print(f"{args.requests / report.seconds:.1f} requests/s, {len(report.latencies) / report.seconds:.1f} answers/s")
    print(f"latency of answers: median {median(report.latencies):.3f} s, 95 % {late:.3f} s")
    print(f"statuses: {dict(sorted(report.statuses.items()))}; told to come again (429): {report.again} times")
    print(f"lost {report.lost}, crossed {report.crossed}, not refused as they must be {report.unexpected}")
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
