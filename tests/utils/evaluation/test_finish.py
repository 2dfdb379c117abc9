"""utils.evaluation.finish: records of answers, in this process or in others."""

from __future__ import annotations

import math
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from model.answering import Answer
from model.config import PixDLMConfig
from model.inputs.images import Geometry, frame_logits, frame_of
from model.masks import confidence
from utils.datasets.base import Sample
from utils.datasets.registry import load_dataset
from utils.evaluation import finish
from utils.evaluation.finish import MOST_WAITING, Finisher, check_finite, finished_record
from utils.runtime.errors import UserError

Asked = list[tuple[Sample, str, str, Geometry]]


@pytest.fixture
def asked(tiny_drseg: Path, tiny_config: PixDLMConfig) -> Asked:
    """Three of the questions, of which the last one's picture is larger than its labels."""
    samples = load_dataset(tiny_drseg, "test")
    chosen = [samples[0], samples[4], samples[-1]]
    return [(one, "none", one.question, frame_of(one.image_path, tiny_config).geometry) for one in chosen]


@pytest.fixture
def answers(tiny_config: PixDLMConfig) -> list[Answer]:
    """With one mask, two and none."""
    side = tiny_config.mask_size
    rows = torch.arange(side * 1.0)[:, None].expand(side, side)
    logits = [torch.stack([rows - side / 2]), torch.stack([side / 4 - rows, rows * 0 + 1]), torch.zeros(0, side, side)]
    return [Answer(one, f"said {len(one)}", "ok" if len(one) else "no_seg") for one in logits]


def test_a_record_has_its_masks_in_the_frames_own_pixels(
    asked: Asked, answers: list[Answer], tiny_config: PixDLMConfig
) -> None:
    for (sample, _, _, geometry), answer in zip(asked, answers, strict=True):
        record = finished_record(sample, "blank-question", "", answer, geometry, tiny_config)
        expected = frame_logits(answer.logits, geometry, tiny_config)
        assert [tuple(mask["size"]) for mask in record["masks"]] == [sample.size] * len(answer.logits)
        drawn = [coco.decode(mask) for mask in record["masks"]]
        assert all(np.array_equal(mask, logits > 0) for mask, logits in zip(drawn, expected, strict=True))
        assert record["scores"] == [confidence(one) for one in expected]
        named = {"id": sample.key, "question": "", "text": answer.text, "control": "blank-question"}
        assert {**named, "status": answer.status}.items() <= record.items()
    record = finished_record(*asked[1][:3], answers[1], asked[1][3], tiny_config)
    whole = record["masks"][1]["size"]
    assert coco.area(record["masks"][1]) == whole[0] * whole[1] and record["scores"][1] == pytest.approx(0.7310586)


def test_logits_of_half_precision_are_finished_in_full(
    asked: Asked, answers: list[Answer], tiny_config: PixDLMConfig
) -> None:
    half = Answer(answers[0].logits.bfloat16(), "", "ok")
    (records,) = Finisher(tiny_config, 0).add(asked[:1], [half])
    assert records[0]["masks"] == Finisher(tiny_config, 0).add(asked[:1], answers[:1])[0][0]["masks"]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_masks_that_are_not_finite_are_refused_and_the_first_is_named(number: float) -> None:
    records = [{"id": f"r{i}", "scores": scores} for i, scores in enumerate(([0.5], [], [0.5, number], [number]))]
    assert check_finite("folder", records[:2]) == records[:2]
    message = (
        "^folder: 2 of 4 answers have a mask that is not finite, the first that of record 'r2'; .*--precision fp32"
    )
    with pytest.raises(UserError, match=message):
        check_finite("folder", records)


def test_logits_that_are_no_numbers_do_not_pass_for_an_empty_mask(asked: Asked, tiny_config: PixDLMConfig) -> None:
    side = tiny_config.mask_size
    lost = Answer(torch.full((1, side, side), math.nan), "", "ok")
    record = finished_record(*asked[0][:3], lost, asked[0][3], tiny_config)
    with pytest.raises(UserError, match=f"record {record['id']!r}"):
        check_finite("folder", [record])


# Processes


def finished(finisher: Finisher, batches: list[tuple[Asked, list[Answer]]]) -> list[list[dict]]:
    found = []
    for batch in batches:
        found += finisher.add(*batch)
    found += finisher.drain()
    finisher.close()
    return found


def test_processes_give_the_same_records_in_the_same_order(
    asked: Asked, answers: list[Answer], tiny_config: PixDLMConfig
) -> None:
    order = [(asked, answers), (asked[::-1], answers[::-1]), ([], []), (asked[1:], answers[1:])]
    here = finished(Finisher(tiny_config, 0), order)
    assert [[one["id"] for one in records] for records in here] == [[s.key for s, *_ in a] for a, _ in order]
    assert finished(Finisher(tiny_config, 2), order) == here


def test_only_so_many_batches_wait(
    asked: Asked, answers: list[Answer], tiny_config: PixDLMConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    class Slow:
        def done(self) -> bool:
            return False

        def result(self) -> dict:
            waits.append(len(finisher.waiting))
            return {}

    finisher = Finisher(tiny_config, 0)
    finisher.pool = SimpleNamespace(submit=lambda *_: Slow())
    given = [len(finisher.add(asked[:1], answers[:1])) for _ in range(MOST_WAITING + 3)]
    assert given == [0] * MOST_WAITING + [1] * 3 and waits == [MOST_WAITING] * 3
    assert len(list(finisher.drain())) == MOST_WAITING and not finisher.waiting


@pytest.mark.parametrize("soon", [True, False])
def test_a_process_that_dies_is_told(
    asked: Asked, answers: list[Answer], tiny_config: PixDLMConfig, soon: bool
) -> None:
    finisher = Finisher(tiny_config, 1)
    (process,) = finisher.pool._processes.values()
    os.kill(process.pid, signal.SIGKILL)
    if soon:
        process.join(10)
        time.sleep(0.2)  # until the pool has noticed, so that nothing can be submitted any more
    with pytest.raises(
        UserError, match="a process that finishes masks died, often for lack of memory: lower --workers"
    ):
        for _ in range(100):
            finisher.add(asked, answers)
            time.sleep(0.05)
    finisher.close()


def test_a_process_that_dies_at_its_start_is_told(tiny_config: PixDLMConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "_start", lambda config: os._exit(1))
    with pytest.raises(UserError, match="a process that finishes masks died, often for lack of memory"):
        Finisher(tiny_config, 1)


def test_no_process_is_left(tiny_config: PixDLMConfig) -> None:
    finisher = Finisher(tiny_config, 2)
    processes = list(finisher.pool._processes.values())
    finisher.close()
    assert processes and not any(one.is_alive() for one in processes)
