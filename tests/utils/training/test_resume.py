"""utils.training.resume: what a run takes up again, and what it refuses."""

from __future__ import annotations

import json
import logging
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from utils.cli.train_options import parse_train
from utils.runtime.errors import UserError
from utils.training import resume as module
from utils.training.recipe import resolve
from utils.training.resume import (
    FINISHED,
    PROGRESS,
    RECORDS,
    Progress,
    RunStates,
    begun_with,
    find_damage,
    random_states,
    set_random_states,
    without_retired,
    write_checksums,
)


def test_an_error_from_inside_a_run_is_no_second_start(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="a worker"), RunStates(tmp_path, {}, keep=2).locked():
        raise BlockingIOError("a worker")


# States of earlier versions

RETIRED = {"feature_cache": "runs/cache", "feature_cache_gb": 8.0, "hint_share": 0.6, "hint_steps": 125}  # of 5be6f68


def record(step: int, **changes: object) -> dict[str, Any]:
    """`progress.json` as 5be6f68 wrote it for `mini`."""
    options = {**asdict(parse_train(["--config", "mini"])), **RETIRED, **changes}
    for added in ("targets", "text_weight", "words_dropout"):  # since then
        options.pop(added, None)
    return {"progress": {"step": step}, "settings": {**options, "processes": 1}}


def check(tmp_path: Path, written: dict[str, Any]) -> None:
    """Take up a state of `mini` with these contents."""
    file = tmp_path / "progress.json"
    file.write_text(json.dumps(written))
    RunStates(tmp_path, asdict(parse_train(["--config", "mini"])), keep=2).check_settings(file)


@pytest.mark.parametrize("step", [125, 126, 4000])
def test_a_state_whose_hints_are_over_is_taken_up(tmp_path: Path, step: int) -> None:
    check(tmp_path, record(step))
    assert not RETIRED.keys() & without_retired(record(step)).keys()


@pytest.mark.parametrize("step", [0, 1, 124])
def test_a_state_within_its_hints_is_refused(tmp_path: Path, step: int) -> None:
    with pytest.raises(UserError, match=r"is a run with other options \(hint_share 0\.6, now None\); give the same"):
        check(tmp_path, record(step))


def test_a_state_that_never_had_hints_is_taken_up(tmp_path: Path) -> None:
    check(tmp_path, record(0, hint_share=0.0, hint_steps=0))
    check(tmp_path, record(0, hint_share=0.0))
    check(tmp_path, record(0, hint_steps=0))  # no step had any


def test_a_run_that_ended_with_hints_is_known_as_ended(tmp_path: Path) -> None:
    states = RunStates(tmp_path, asdict(parse_train(["--config", "mini"])), keep=2)
    states.folder.mkdir()
    (states.folder / FINISHED).write_text(json.dumps({"settings": record(0)["settings"]}))
    assert states.finished()


def test_other_options_are_held_against_each_other_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\(lr 0\.5, now 0\.0011\)"):
        check(tmp_path, record(200, lr=0.5))
    check(tmp_path, record(200, workers=7, run_dir="elsewhere", keep=9))  # which change no weight


def test_a_state_of_before_the_recipe_is_taken_up_as_single_passes(tmp_path: Path) -> None:
    """As 59cfddb wrote it: batch size and warm-up named, an epoch a pass, no word of tags and samples."""
    written = record(200, batch_size=24, warmup_steps=100, steps_per_epoch=None)
    for name in ("orientation", "global_batch", "samples_per_epoch", *RETIRED):
        del written["settings"][name]
    states = RunStates(tmp_path, asdict(resolve(parse_train(["--config", "mini"]), 2000, 1)), keep=2)
    file = states.folder / "step-00000200-epoch-0002" / PROGRESS
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(written))
    states.check_settings(file)
    assert begun_with(states.folder) == {"steps_per_epoch": None}
    written["settings"]["batch_size"] = 12
    file.write_text(json.dumps(written))
    with pytest.raises(UserError, match="batch_size 12, now 24"):
        states.check_settings(file)


# Files


def test_what_is_wrong_with_a_state_is_found(tmp_path: Path) -> None:
    assert find_damage(tmp_path) == "no checksums.json"
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path)
    assert find_damage(tmp_path) == ""
    (tmp_path / "a.pt").write_text("A.pt")
    assert find_damage(tmp_path) == "a.pt has changed"
    (tmp_path / "b.pt").unlink()
    assert find_damage(tmp_path) == "no b.pt"


def test_every_generator_goes_on_where_it_was() -> None:
    def draw() -> list[float]:
        return [random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn(())), random.random()]

    draw()  # so that both kinds of normal values have one in store
    before = random_states()
    first = draw()
    assert draw() != first
    set_random_states(before)
    assert draw() == first


# What is written and read, with a stand-in for DeepSpeed's engine


class FileEngine:
    """An engine whose checkpoint is one file."""

    def __init__(self) -> None:
        self.weights, self.written = torch.arange(1000.0), []

    def save_checkpoint(self, folder: str, tag: str, **options: Any) -> None:
        Path(folder, tag).mkdir()
        torch.save({"weights": self.weights}, Path(folder, tag, "weights.pt"))
        self.written.append(tag)

    def load_checkpoint(self, folder: str, tag: str, **options: Any) -> tuple[str, dict]:
        self.weights = torch.load(f"{folder}/{tag}/weights.pt", weights_only=False)["weights"]  # as DeepSpeed does
        return tag, {}


def test_a_state_after_a_validation_has_the_weights_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, states, engine = [], RunStates(tmp_path, {}, keep=2), FileEngine()
    plain = module.file_hash
    monkeypatch.setattr(module, "file_hash", lambda file: hashed.append(file.name) or plain(file))
    states.save(engine, Progress(step=3, epoch=0))
    hashed.clear()
    states.save(engine, Progress(step=3, epoch=1))
    assert engine.written == ["step-00000003-epoch-0000"]
    assert sorted(hashed) == ["process-0.pt", PROGRESS]  # what is linked has its checksum already
    before, after = states.states()
    assert (after / "weights.pt").samefile(before / "weights.pt")
    assert not (after / "process-0.pt").samefile(before / "process-0.pt")
    assert json.loads((after / PROGRESS).read_text())["progress"]["epoch"] == 1
    engine.weights = engine.weights + 1
    states.save(engine, Progress(step=4, epoch=1))  # a step came between
    assert engine.written[1:] == ["step-00000004-epoch-0001"] and states.states()[0] == after
    monkeypatch.undo()
    assert [find_damage(state) for state in states.states()] == ["", ""]
    kept = torch.load(after / "weights.pt")["weights"]
    assert torch.equal(kept + 1, engine.weights)


def test_a_state_may_go_once_it_is_loaded(tmp_path: Path) -> None:
    """Weights that were left in their file would change with it."""
    states, engine = RunStates(tmp_path, {}, keep=2), FileEngine()
    states.save(engine, Progress(step=3, sums=[1.0, 2.0]))
    expected, (state,) = engine.weights, states.states()
    progress = RunStates(tmp_path, {}, keep=2).load(engine, state)
    with (state / "weights.pt").open("r+b") as file:
        file.write(bytes((state / "weights.pt").stat().st_size))
    assert torch.equal(engine.weights, expected) and engine.weights is not expected
    assert (progress.step, progress.sums) == (3, [1.0, 2.0])


class Runs:
    def __reduce__(self) -> tuple:
        return eval, ("print('it ran')",)


def test_a_state_that_wants_to_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states, engine = RunStates(tmp_path, {}, keep=2), FileEngine()
    states.save(engine, Progress(step=3))
    (state,) = states.states()
    torch.save({"weights": Runs()}, state / "weights.pt")
    with pytest.raises(UserError, match=r"weights.pt: not read, .*\beval\b"):
        states.load(engine, state)
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize("by_name", [False, True])
def test_a_run_decays_as_it_began_however_often_it_goes_on(tmp_path: Path, by_name: bool) -> None:
    def start() -> RunStates:
        states = RunStates(tmp_path, SETTINGS, keep=2)
        states.newest()
        return states

    states = start()
    assert not states.decay_by_name  # a new run
    states.save(FileEngine(), Progress(step=1))
    if by_name:  # of an earlier version, which knew no other rule and did not say so
        file = states.folder / "step-00000001-epoch-0000" / PROGRESS
        record = json.loads(file.read_text())
        del record["decay"]
        file.write_text(json.dumps(record))
        write_checksums(file.parent)
    for step in (2, 3, 4):
        states = start()
        assert states.decay_by_name == by_name
        states.save(FileEngine(), Progress(step=step))


# Training records that have changed

SETTINGS = {
    **{
        "lr": 0.1,
        "orientation": "check",
        "text_weight": 1.0,
        "words_dropout": 0.0,
        "steps_per_epoch": 7,
        "warmup_steps": 2,
    },
    RECORDS: "60 (aaaaaaaa)",
}


def written(run: Path, name: str = "step-00000003-epoch-0000", **changes: Any) -> Path:
    """A state of a run that began with SETTINGS."""
    states = RunStates(run, {**SETTINGS, **changes}, keep=2, derived=["steps_per_epoch"])
    file = states.folder / name / PROGRESS
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"progress": {"step": 3}, "settings": states.settings, "derived": states.derived}))
    return file


def test_other_training_records_are_told_and_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = written(tmp_path)
    now = RunStates(tmp_path, {**SETTINGS, RECORDS: "59 (bbbbbbbb)"}, keep=2)
    with caplog.at_level(logging.WARNING):
        now.check_settings(file)
    assert "60 (aaaaaaaa) by number and checksum of ids and questions, now 59 (bbbbbbbb)" in caplog.text
    with pytest.raises(UserError, match=r"other options \(lr 0.1, now 0.2\)"):
        RunStates(tmp_path, {**SETTINGS, "lr": 0.2}, keep=2).check_settings(file)


def test_what_follows_from_the_records_stays_as_the_run_began(tmp_path: Path) -> None:
    fewer = RunStates(tmp_path, {**SETTINGS, "steps_per_epoch": 6, RECORDS: "50 (cccccccc)"}, keep=2)
    assert begun_with(fewer.folder) == {}
    written(tmp_path)
    assert begun_with(fewer.folder) == {"steps_per_epoch": 7}  # the warm-up was named
    written(tmp_path, "step-00000005-epoch-0000", **{RECORDS: "50 (cccccccc)"})  # gone on with once already
    assert begun_with(fewer.folder) == {"steps_per_epoch": 7}
    later = tmp_path / "state/step-00000006-epoch-0000"
    later.mkdir()
    (later / PROGRESS).write_text("{")
    assert begun_with(fewer.folder) == {"steps_per_epoch": 7}  # by the one before


@pytest.mark.parametrize("text", ["", "[]", "{", '{"settings": 3}'])
def test_a_record_of_a_run_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / FINISHED
    file.write_text(text)
    with pytest.raises(UserError, match=f"{FINISHED}: .*--restart"):
        RunStates(tmp_path, SETTINGS, keep=2).check_settings(file)


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000])
def test_checksums_that_are_none_are_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / "checksums.json").write_text(text)
    assert "checksums.json" in find_damage(tmp_path)
