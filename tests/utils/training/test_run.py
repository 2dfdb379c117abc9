"""utils.training.run: what is checked and drawn before the loop begins."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from utils.cli.train_options import TrainArgs
from utils.datasets.base import Sample
from utils.datasets.loading.sampler import TrainSampler
from utils.datasets.sources import LoadedSource, Source
from utils.runtime.errors import UserError
from utils.training import run as module
from utils.training.resume import RunStates
from utils.training.run import check_unclaimed, process_group_timeout, seed_everything, train_on, training_loader


def split(count: int) -> list[Sample]:
    return [Sample(Path(f"{i}.jpg"), "left?", None, (), 9, 9, "drseg", str(i), i) for i in range(count)]


def test_others_wait_longer_than_a_hanging_process_lives() -> None:
    assert process_group_timeout(TrainArgs(timeout_minutes=10)) == timedelta(minutes=15)
    assert process_group_timeout(TrainArgs(timeout_minutes=0)) > timedelta(days=1)  # never, so far as PyTorch knows it


def test_a_seed_sets_every_generator() -> None:
    def draw() -> list[Any]:
        return [random.random(), np.random.rand(), torch.rand(()).item()]

    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first != draw()


class Begun(Exception):
    """Raised in place of starting the engine: what is drawn from there on, and how weights are decayed."""


def begin(monkeypatch: pytest.MonkeyPatch, number: int, building: int = 0, by_name: bool = False) -> Begun:
    """How a run begins on the process of this number, whose model took `building` numbers to build."""

    def build(args: TrainArgs) -> tuple[SimpleNamespace, None, dict]:
        torch.rand(building)
        model = SimpleNamespace(config=None, use_flash_attention=lambda: False)
        model.cast = lambda dtype: SimpleNamespace(to=lambda device: model)
        return model, None, {}

    def start(model: SimpleNamespace, args: TrainArgs, steps: int, decay_by_name: bool) -> None:
        raise Begun(torch.rand(3).tolist(), steps, decay_by_name)

    stand_ins = {"build_training_model": build, "start_engine": start, "rank": lambda: number, "world_size": lambda: 2}
    stand_ins |= {"check_precision": lambda dtype: None, "log_summary": lambda *given: None}
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(module, name, stand_in)
    args = TrainArgs(seed=5, batch_size=2, zero_stage=0, gradient_checkpointing=False, steps_per_epoch=3, epochs=4)
    states = SimpleNamespace(newest=lambda: None, decay_by_name=by_name)
    with torch.random.fork_rng(devices=[]), pytest.raises(Begun) as begun:
        source = LoadedSource(Source("drseg", "drseg", Path("data"), "train"), split(8))
        train_on([source], [], args, states, Path("run"), torch.device("cpu"))
    return begun.value


def test_every_process_draws_other_dropout_masks_and_the_same_ones_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (first, *_), (second, *_) = (begin(monkeypatch, number).args for number in (0, 1))
    assert first != second
    assert begin(monkeypatch, 1, building=7).args[0] == second  # whatever the weights were drawn from


@pytest.mark.parametrize("by_name", [False, True])
def test_the_engine_decays_as_the_run_began(monkeypatch: pytest.MonkeyPatch, by_name: bool) -> None:
    assert begin(monkeypatch, 0, by_name=by_name).args[1:] == (12, by_name)


@pytest.mark.parametrize("which", ["best", "last"])
def test_weights_without_a_state_of_their_run_are_replaced_only_on_request(tmp_path: Path, which: str) -> None:
    states = RunStates(tmp_path, {}, keep=2)
    (tmp_path / which).mkdir()
    check_unclaimed(tmp_path, states, restart=False)  # nothing is in it
    (tmp_path / which / "config.json").write_text("{}")
    with pytest.raises(UserError, match=f"{which}: holds weights already, and .*state no state of their run"):
        check_unclaimed(tmp_path, states, restart=False)
    check_unclaimed(tmp_path, states, restart=True)
    (states.folder / "step-00000003-epoch-0001").mkdir(parents=True)
    check_unclaimed(tmp_path, states, restart=False)  # they are this run's own


@pytest.mark.parametrize("mirror", [False, True])
def test_batches_are_those_of_the_sampler_flipped_where_it_is_asked_for(mirror: bool) -> None:
    samples, args = split(40), TrainArgs(workers=0, mirror=mirror)
    sampler = TrainSampler(samples, 5, 1, seed=0)
    loader = training_loader(samples, sampler, args, lambda batch: batch, SimpleNamespace(type="cpu"))
    batches = list(loader)
    assert [[one.index for one in batch] for batch in batches] == list(sampler)
    assert any(one.flip != (False, False) for batch in batches for one in batch) == mirror
