"""train.py on several data sets together, as a user runs it: shares, resumption, processes, mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tests.test_resume import KILL_AT_STEP
from tests.training import Ended, Server
from utils.mini_drseg.generate import OTHER_KINDS, generate


@pytest.fixture(scope="module")
def roots(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A few pictures with questions of one target, and such with several and without any."""
    other = tmp_path_factory.mktemp("data") / "other"
    generate(other, {"train": 12, "val": 9, "test": 3}, workers=1, kinds=OTHER_KINDS)
    return f"near=drseg:{data},far=drseg:{other}"


MIXTURE = ("--train", "near:3,far:1", "--mirror", "True", "--lora-rank", "2", "--lora-dropout", "0.1")


@pytest.fixture(scope="module")
def whole(server: Server, roots: str, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    return server.train_well(roots, tmp_path_factory.mktemp("runs") / "whole", *MIXTURE)


def same(one: Ended, other: Ended) -> bool:
    ours, theirs = one.state(), other.state()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_mixture_is_trained_and_validated_on_each_of_its_data_sets(whole: Ended) -> None:
    assert re.search(
        r"mixture: near, 12 records from .* \(drseg, split train\), 77.8 % of those drawn: 1.17", whole.log
    )
    assert re.search(r"mixture: far, 6 records from .* 22.2 % of those drawn: 0.67 times an epoch", whole.log)
    assert "validation on near after epoch 2" in whole.log and "validation on far after epoch 2" in whole.log
    training = whole.training()
    assert list(training["validation"]) == list(training["validated"]) == ["near", "far"]
    near, far = (training["validation"][name] for name in ("near", "far"))
    assert near["overall"]["count"] == 6 and "n_acc" not in near["overall"] and "by_target_count" not in near
    assert {name: one["count"] for name, one in far["by_target_count"].items()} == {"0": 1, "2": 4, "4 or more": 4}
    assert far["overall"]["n_acc"] in (0, 1) and 0 <= far["overall"]["t_acc"] <= 1
    mean = (near["overall"]["giou"] + far["overall"]["giou"]) / 2
    assert f"mean over the validated sets after epoch 2: {mean:.4f}" in whole.log
    assert whole.scalars("val/near/giou").keys() == whole.scalars("val/far/giou").keys()


def test_a_killed_mixture_goes_on_exactly(server: Server, roots: str, whole: Ended, tmp_path: Path) -> None:
    options = (*MIXTURE, "--save-steps", "1")
    server.train(roots, tmp_path, *options, before=KILL_AT_STEP.format(step=8, signal="SIGKILL"))
    resumed = server.train_well(roots, tmp_path, *options)
    assert "goes on after step 8" in resumed.log and same(resumed, whole)


def test_another_share_is_another_run(server: Server, roots: str, whole: Ended, tmp_path: Path) -> None:
    other = server.train_well(roots, tmp_path, "--train", "near:1,far:3", *MIXTURE[2:])
    assert not same(other, whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--train", "near,gone"), "no folder for 'gone'; --data names near, far"),
        (("--train", "near", "--validate", "far@best"), "labels/DRSeg_best.json: no such split"),
        (("--train", "near:1000,far:1"), "the share of far is so small that an epoch of 18 records has none of it"),
        (("--validate", "near"), "go with --train"),
    ],
)
def test_mistakes_are_told(server: Server, roots: str, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    ended = server.train(roots, tmp_path, *options)
    assert ended.status == 2 and message in ended.said and "Traceback" not in ended.said
