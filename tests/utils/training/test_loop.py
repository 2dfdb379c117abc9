"""utils.training.loop: what a validation scores and when it ends the run, and which steps are left out."""

from __future__ import annotations

import json
import logging
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.language.answers import SEG
from model.masks import encode_mask
from tests.training import Server
from utils.cli.train_options import TrainArgs
from utils.datasets.base import DatasetSpec, Sample, ScoringRules
from utils.datasets.registry import DATASETS
from utils.datasets.sources import LoadedSource, Source
from utils.evaluation.predictions import Record
from utils.evaluation.protocols import FORCED, GIVEN_REASONING, NO_REASONING, Protocol
from utils.runtime.errors import UserError
from utils.training.loop import LOSSES, Run


def columns(count: int) -> dict[str, Any]:
    """Run lengths of the first columns of a frame of 9 by 9 pixels."""
    mask = np.zeros((9, 9), np.uint8)
    mask[:, :count] = 1
    return encode_mask(mask)


DRSEG, ROOFS = (Source(name, name, Path("data"), "val") for name in ("drseg", "roofs"))
SAMPLES = [
    Sample(
        *(Path(f"{i}.jpg"), f"Question {i}?", None, (columns(8),), 9, 9, "drseg", f"record {i}", i),
        groups={"region": "north", "altitude": 30},
        key=f"record {i}",
    )
    for i in range(3)
]
VALIDATION = """
import math, sys, torch
from pathlib import Path
from types import SimpleNamespace
from utils.cli.train_options import TrainArgs
from utils.datasets.base import Sample
from utils.datasets.sources import LoadedSource, Source
from utils.runtime.distributed import process_group, rank
from utils.runtime.errors import UserError
from utils.training import loop

def predict(model, tokenizer, samples, protocol, loading, write, **named):
    write([{"id": "DJI_7", "scores": [math.nan]}] if rank() == 0 else [])

loop.predict = predict
loop.gathered_state = lambda engine: sys.exit("nothing may be gathered any more")
config = SimpleNamespace(answer_format="seg", single_target=False)
engine = SimpleNamespace(device=torch.device("cpu"), module=SimpleNamespace(config=config), eval=lambda: None)
with process_group(torch.device("cpu")):
    run = loop.Run(TrainArgs(), engine, None, None, Path("runs/x"), 4, None)
    run.progress.step = 8
    try:
        sample = Sample(Path("a.jpg"), "Which?", None, (), 9, 9, "drseg", "DJI_7", 0)
        run.validate(1, [LoadedSource(Source("drseg", "drseg", Path("data"), "val"), [sample])])
    except UserError as error:
        print(error)
"""


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Any]:
    """Makes a run of `native` without an engine that computes; keywords replace its options."""
    before = signal.getsignal(signal.SIGTERM)

    def make(**options: Any) -> Run:
        config = SimpleNamespace(answer_format=options.pop("learnt", SEG), single_target=False)
        model = nn.Linear(2, 2)
        model.config, model.device = config, torch.device("cpu")
        engine = SimpleNamespace(device=model.device, module=options.pop("model", model), eval=lambda: None)
        return Run(TrainArgs(**options), engine, None, options.pop("tokenizer", None), tmp_path, 4, None)

    yield make
    signal.signal(signal.SIGTERM, before)


class StepEngine:
    """An engine whose forward passes have these losses, in turn."""

    def __init__(self, *losses: float, norm: object = 1.0, applied: bool = True) -> None:
        self.losses, self.norm, self.applied = iter(losses), norm, applied
        self.device, self.backwards, self.slopes = torch.device("cpu"), [], []

    def __call__(self, batch: object, weights: object) -> SimpleNamespace:
        self.leaf = torch.tensor(next(self.losses), requires_grad=True)
        return SimpleNamespace(**{**dict.fromkeys(LOSSES, self.leaf.detach()), "loss": self.leaf * 1})

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()
        self.backwards.append(loss.item())
        self.slopes.append(self.leaf.grad.item())

    def step(self) -> None: ...

    def was_step_applied(self) -> bool:
        return self.applied

    def get_global_grad_norm(self) -> object:
        return self.norm


BATCH = SimpleNamespace(samples=SAMPLES[:1])
BATCH.to = lambda device, dtype: BATCH


def predictions(*confidences: float) -> list[Record]:
    """Of one target a sample, with an IoU of a half."""
    return [
        {"id": f"record {i}", "question": f"Question {i}?", "text": "", "status": "ok", "control": "none"}
        | {"masks": [columns(4)], "scores": [confidence]}
        for i, confidence in enumerate(confidences)
    ]


# Validation


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_mask_that_is_not_finite_ends_the_run_and_names_its_record(
    make_run: Any, tmp_path: Path, number: float
) -> None:
    run = make_run()
    run.progress.step = 12
    assert run.scores(LoadedSource(DRSEG, SAMPLES), predictions(0.5, 0.0, 1.0))["overall"] == pytest.approx(
        {"count": 3, "giou": 0.5, "ciou": 0.5}
    )
    message = f"{tmp_path}, step 12: 2 of 3 answers have a mask that is not finite, the first that of record 'record 1'"
    with pytest.raises(UserError, match=message):
        run.scores(LoadedSource(DRSEG, SAMPLES), predictions(0.5, number, number))


def test_every_process_is_told_of_a_mask_that_is_not_finite(server: Server) -> None:
    told = [one.stdout.strip() for one in server.run_code(VALIDATION, world=2)]
    assert told[0] == told[1]
    assert told[0].startswith(
        "runs/x, step 8: 1 of 1 answers have a mask that is not finite, the first that of record 'DJI_7'"
    )


def test_a_validation_breaks_down_as_its_data_set_says(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DatasetSpec(
        "roofs", ("all",), "", "", list, {"clean": ScoringRules(("giou",))}, group_titles={"region": "region"}
    )
    monkeypatch.setitem(DATASETS, "roofs", spec)
    found = make_run().scores(LoadedSource(ROOFS, SAMPLES), predictions(0.5, 0.5, 0.5))
    assert list(found) == ["overall", "by_target_size", "by_region"] and list(found["overall"]) == ["count", "giou"]
    assert list(make_run().scores(LoadedSource(DRSEG, SAMPLES[:1]), predictions(0.5))) == [
        *("overall", "by_target_size", "by_reasoning_type", "by_altitude")
    ]


@pytest.mark.parametrize(("learnt", "reasoning"), [("seg", NO_REASONING), ("reasoning", GIVEN_REASONING)])
def test_a_validation_asks_as_training_does_and_the_checkpoint_says_how(
    make_run: Any, monkeypatch: pytest.MonkeyPatch, learnt: str, reasoning: str
) -> None:
    asked, saved = [], []

    def answered(model: Any, tokenizer: Any, samples: list[Sample], protocol: Protocol, *rest: Any, run: Any) -> None:
        asked.append(protocol)
        rest[-1](predictions(0.5, 0.5, 0.5))

    monkeypatch.setattr("utils.training.loop.predict", answered)
    monkeypatch.setattr("utils.training.loop.gathered_state", lambda engine: {})
    monkeypatch.setattr("utils.training.loop.save_model", lambda *given: saved.append(given[-1]))
    monkeypatch.setattr("utils.training.loop.link_model", lambda source, folder: None)
    monkeypatch.setattr("utils.training.loop.code_version", lambda: "1234567")
    run = make_run(learnt=learnt)
    run.writer = SimpleNamespace(add_scalar=lambda name, value, step: None)
    run.validate(0, [LoadedSource(DRSEG, SAMPLES)])
    assert asked == [Protocol(FORCED, reasoning)]
    (record,) = saved
    assert record["validation"]["overall"]["giou"] == pytest.approx(0.5)
    facts = record["validated"]
    assert {"dataset": "drseg", "split": "val", "records": 3}.items() <= facts["data"].items()
    assert facts["protocol"]["reasoning"] == reasoning and facts["code"] == "1234567"
    assert facts["hardware"]["device"] == "cpu"


def save_scored(
    run: Run, monkeypatch: pytest.MonkeyPatch, sources: list[Source], *values: list[dict[str, float]]
) -> tuple[list[str], list[str]]:
    """The names of what validations with these scores, one for each source, show and save."""
    shown, saved = [], []
    run.writer = SimpleNamespace(add_scalar=lambda name, value, step: shown.append(name))
    monkeypatch.setattr("utils.training.loop.save_model", lambda folder, *rest: saved.append(folder.name))
    monkeypatch.setattr("utils.training.loop.link_model", lambda source, folder: saved.append(folder.name))
    for epoch, scores in enumerate(values):
        run.save_scored(epoch, sources, [({"overall": {"count": 3, **one}}, {}) for one in scores], {})
    return shown, saved


def test_the_best_weights_are_those_of_the_highest_score(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [[{"giou": value, "ciou": 1 - value}] for value in (0.5, 0.4, 0.5, 0.6)]
    shown, saved = save_scored(make_run(), monkeypatch, [DRSEG], *scores)
    assert shown == ["val/giou", "val/ciou"] * 4
    assert saved == ["last", "best", "last", "last", "last", "best"]


def test_a_data_set_without_giou_has_best_weights_too(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = DatasetSpec("roofs", ("all",), "", "", list, {"clean": ScoringRules(("ciou",))})
    monkeypatch.setitem(DATASETS, "roofs", spec)
    shown, saved = save_scored(make_run(), monkeypatch, [ROOFS], [{"ciou": 0.5}], [{"ciou": 0.4}])
    assert shown == ["val/ciou"] * 2 and saved == ["last", "best", "last"]


def test_the_best_weights_of_a_mixture_are_those_of_the_highest_mean(
    make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DATASETS, "roofs", DatasetSpec("roofs", (), "", "", list, {"clean": ScoringRules(("ciou",))}))
    both = [replace(DRSEG, split="test"), ROOFS]
    scores = [[{"giou": one, "ciou": 0.0}, {"ciou": other}] for one, other in ((0.2, 0.4), (0.5, 0.0), (0.1, 0.6))]
    shown, saved = save_scored(make_run(), monkeypatch, both, *scores)
    assert shown[:3] == ["val/drseg@test/giou", "val/drseg@test/ciou", "val/roofs/ciou"]
    assert saved == ["last", "best", "last", "last", "best"]


# Steps


def test_as_many_bad_steps_as_allowed_are_left_out(make_run: Any, tmp_path: Path) -> None:
    run = make_run(max_bad_steps=1)
    run.progress.step = 3
    run.skip_nonfinite_step("the loss", SAMPLES[:1], ": {}")
    (line,) = (tmp_path / "bad_batches.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "step": 3,
        "what": "the loss at step 3 is not finite: {}",
        "records": ["record 0 ('Question 0?')"],
    }
    with pytest.raises(
        UserError, match=r"a gradient at step 4 is not finite; the batch holds record 1 .*--max-bad-steps 2"
    ):
        run.progress.step = 4
        run.skip_nonfinite_step("a gradient", SAMPLES[1:2])


@pytest.mark.parametrize("norm", [math.nan, math.inf, torch.tensor(math.nan), -1.0])
def test_a_gradient_that_deepspeed_lets_into_the_weights_ends_the_run(make_run: Any, norm: object) -> None:
    run = make_run(grad_accumulation=1)
    run.engine = StepEngine(1.0)
    assert run.train_step(repeat(BATCH)) == (False, False) and run.progress.step == 1
    run.engine = StepEngine(1.0, norm=norm)
    with pytest.raises(UserError, match=r"a gradient at step 2 is not finite, .*has record 0 \('Question 0\?'\)"):
        run.train_step(repeat(BATCH))


def test_a_loss_that_is_not_finite_spoils_its_step_and_is_named_once_for_all_micro_steps(
    make_run: Any, tmp_path: Path
) -> None:
    run = make_run(grad_accumulation=3, max_bad_steps=1)
    run.engine = StepEngine(1.0, math.inf, 2.0)
    assert run.train_step(repeat(BATCH)) == (False, False)
    assert [math.isfinite(one) for one in run.engine.backwards] == [True, False, True]
    assert math.isnan(run.engine.slopes[1]) and run.engine.slopes[0] == run.engine.slopes[2] == 1
    (line,) = (tmp_path / "bad_batches.jsonl").read_text().splitlines()
    assert json.loads(line)["what"].startswith("the loss at step 1 is not finite: {'loss': inf")
    assert (run.progress.step, run.progress.drawn, run.progress.summed) == (1, 3, 0) and not run.sums.any()


def test_a_skipped_step_of_fp16_does_not_count_and_saves_nothing(make_run: Any) -> None:
    run = make_run(grad_accumulation=1, precision="fp16", save_steps=1)
    run.engine = StepEngine(1.0, applied=False)
    assert run.train_step(repeat(BATCH)) == (False, False) and run.progress.step == 0
    run.engine = StepEngine(1.0)
    assert run.train_step(repeat(BATCH)) == (False, True) and run.progress.step == 1


def test_a_state_is_due_by_steps_and_by_time(make_run: Any) -> None:
    run = make_run(save_steps=3, save_minutes=0)
    due = []
    for run.progress.step in range(6):
        due.append(run.state_is_due())
    assert due == [False, False, True, False, False, True]
    run = make_run(save_steps=0, save_minutes=1)
    assert not run.state_is_due()
    run.saved -= 61
    assert run.state_is_due()


# States and what they cost


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_saved(make_run: Any, tmp_path: Path, value: float) -> None:
    run, saved = make_run(model=nn.Linear(2, 2)), []
    run.states = SimpleNamespace(folder=tmp_path / "state", save=lambda engine, progress: saved.append(progress.step))
    run.progress.step = 4
    run.save()
    run.progress.step, run.engine.module.bias.data[1] = 5, value
    with pytest.raises(UserError, match=f"not finite after step 5, .*{tmp_path / 'state'} stay"):
        run.save()
    assert saved == [4]


def test_the_log_tells_what_validation_and_writing_cost(
    make_run: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]

    def lasting(seconds: float, result: Any = None) -> Any:
        def pass_time(*given: Any, **named: Any) -> Any:
            clock[0] += seconds
            return result

        return pass_time

    monkeypatch.setattr("utils.training.loop.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr("utils.training.loop.predict", lasting(20))
    monkeypatch.setattr("utils.training.loop.gather_lists", lambda own: predictions(0.5))
    monkeypatch.setattr("utils.training.loop.gathered_state", lasting(8))
    run = make_run()
    run.states = SimpleNamespace(save=lasting(2))
    run.past_seconds, run.progress.spent = 100.0, {"validation": 5.0, "writing": 0.0}  # of an earlier start
    clock[0] = 70  # in training
    run.save()
    run.validate(0, [LoadedSource(DRSEG, SAMPLES[:1])])
    with caplog.at_level(logging.INFO):
        run.log_costs()
    assert "of 200 s so far validation took 12.5 % and writing checkpoints and states 5.0 %;" in caplog.text


def test_a_run_saves_before_and_after_each_validation_and_tells_its_costs(
    make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("utils.training.loop.SummaryWriter", lambda *given, **named: None)
    run, done = make_run(epochs=3, validate_every=2), []
    for name in ("train_epoch", "save", "validate", "log_costs"):
        monkeypatch.setattr(run, name, lambda *given, name=name: done.append((name, run.progress.epoch)))
    run.states = SimpleNamespace(finish=lambda: done.append(("finish", run.progress.epoch)))
    run.fit(iter(()), SAMPLES)
    assert done == [
        *[("train_epoch", 0), ("save", 1)],
        *[("train_epoch", 1), ("save", 1), ("validate", 1), ("log_costs", 1), ("save", 2)],
        *[("train_epoch", 2), ("save", 2), ("validate", 2), ("log_costs", 2), ("finish", 3)],
    ]


def test_a_forward_pass_of_validation_is_a_sign_of_life(make_run: Any) -> None:
    run = make_run()
    run.engine = lambda batch: ("answer", batch)
    assert run.predict("batch") == ("answer", "batch") and run.watchdog.doing == "validation"


def test_a_metric_that_counts_nothing_in_a_split_is_left_out(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of questions that nothing answers there is no T-acc."""
    shown, saved = save_scored(make_run(), monkeypatch, [DRSEG], [{"giou": 0.5, "n_acc": 1.0, "t_acc": None}])
    assert shown == ["val/giou", "val/n_acc"] and saved == ["last", "best"]
