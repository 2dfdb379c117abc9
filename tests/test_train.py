"""train.py on a few drawn pictures and a tiny model: files, numbers, what trains, processes, mistakes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model.parts import part_of
from model.pixdlm import load_model
from tests.training import CHECKOUT, LOSSES, Ended, Server, command, environment
from utils.cli.train_options import PRESETS


@pytest.fixture(scope="module")
def few(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training records, which are the validation split too."""
    out = tmp_path_factory.mktemp("data") / "few"
    shutil.copytree(data, out)
    records = json.loads((data / "labels/DRSeg_train.json").read_text())
    kept = [records[0], next(one for one in records if one["id"] != records[0]["id"])]
    for split in ("train", "val"):
        (out / f"labels/DRSeg_{split}.json").write_text(json.dumps(kept))
    shutil.rmtree(out / "CODrone/DRval")
    shutil.copytree(out / "CODrone/DRtrain", out / "CODrone/DRval")
    return out


@pytest.fixture(scope="module")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """The run that others are compared with, started as a user starts it."""
    folder = tmp_path_factory.mktemp("runs") / "base"
    arguments = command(data, folder, "--lora-rank", "2", "--lora-dropout", "0.1", "--workers", "1")
    ended = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=CHECKOUT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "Traceback" not in ended.stderr and ended.stdout == ""
    return Ended(0, ended.stderr, folder)


# What a run leaves behind


def test_a_run_writes_checkpoints_a_log_and_tensorboard(base: Ended) -> None:
    written = {path.name for path in base.folder.iterdir() if "tfevents" not in path.name}
    assert written == {"last", "best", "train.log", "state"}
    assert [path.name for path in (base.folder / "state").iterdir()] == ["finished.json"]
    for which in ("last", "best"):
        names = {path.name for path in (base.folder / which).iterdir()}
        assert names == {"config.json", "model.safetensors", "tokenizer.model", "training.json"}
        assert base.training(which)["settings"]["lora_rank"] == 2 and base.training(which)["seconds"] > 0
        assert base.training(which)["validation"]["overall"]["count"] == 6
    assert (base.training()["epoch"], base.training()["step"]) == (2, 12)


def test_the_log_says_what_ran_and_how(base: Ended) -> None:
    assert "12 training and 6 validation records from " in base.log
    assert "2 epochs of 6 steps, 2 records a step in 1 process\n" in base.log
    counts, total = re.search(r"trained parameters: (.*); together ([\d,]+)", base.log).groups()
    parts = dict(one.rsplit(" ", 1) for one in counts.split(", "))
    sizes: dict[str, int] = {}
    for name, tensor in load_model(base.folder / "last")[0].named_parameters():
        sizes[part_of(name)] = sizes.get(part_of(name), 0) + tensor.numel()
    assert {part: int(count.replace(",", "")) for part, count in parts.items()} == sizes
    assert int(total.replace(",", "")) == sum(sizes.values())
    lines = re.findall(r"step (\d+)  (.*)", base.log)
    assert [int(step) for step, _ in lines] == list(range(1, 13))
    logged = base.scalars("train/loss")
    for step, text in lines:
        values = dict(one.split(" ") for one in text.split("  "))
        assert set(values) == {*LOSSES, "lr", "samples_per_second", "memory_gib"}
        assert float(values["loss"]) == pytest.approx(logged[int(step)], rel=1e-3)
        assert float(values["samples_per_second"]) > 0 and float(values["memory_gib"]) > 0
    assert "gIoU" in base.log and "validation after epoch 2" in base.log


def test_tensorboard_has_every_value_at_every_step(base: Ended) -> None:
    values = {name: base.scalars(f"train/{name}") for name in (*LOSSES, "lr", "samples_per_second", "memory_gib")}
    assert all(list(one) == list(range(1, 13)) for one in values.values())
    for step in range(1, 13):
        parts = [values[name][step] for name in LOSSES[1:]]  # as weighed
        assert values["loss"][step] == pytest.approx(sum(parts), rel=1e-4) and min(parts[:3]) > 0
    peak = PRESETS["mini"]["lr"]
    assert max(values["lr"].values()) == pytest.approx(peak) and values["lr"][12] < values["lr"][6] < peak
    scores = base.training()["validation"]["overall"]
    assert list(base.scalars("val/giou")) == [6, 12]  # every epoch
    assert base.scalars("val/giou")[12] == pytest.approx(scores["giou"])
    assert base.scalars("val/ciou")[12] == pytest.approx(scores["ciou"])


def test_a_second_run_in_the_same_folder_replaces_the_first_ones_curves(
    server: Server, data: Path, tmp_path: Path
) -> None:
    steps = ["--epochs", "1", "--steps-per-epoch"]
    server.train_well(data, tmp_path, *steps, "4")
    server.train_well(data, tmp_path, *steps, "3", "--restart")
    events = EventAccumulator(str(tmp_path))  # as TensorBoard reads them
    events.Reload()
    assert [one.step for one in events.Scalars("train/loss")] == [1, 2, 3]


def test_memorised_records_are_found_again(server: Server, few: Path, tmp_path: Path) -> None:
    """The loss falls, masks hit, and eval.py finds what the run's own validation found."""
    dropout = ["--lora-rank", "2", "--lora-dropout", "0.5"]  # which validation must not have
    ended = server.train_well(few, tmp_path, "--steps-per-epoch", "50", "--epochs", "1", "--lr", "5e-3", *dropout)
    assert len(ended.losses) == 50
    first, last = ended.losses[0], sum(ended.losses[-5:]) / 5
    assert last < 0.3 * first
    assert ended.scalars("train/mask_dice_loss")[50] < 0.6 * ended.scalars("train/mask_dice_loss")[1]
    scores = ended.training("best")["validation"]
    assert scores["overall"]["giou"] > 0.8
    out = tmp_path / "eval"
    given = ["--model", tmp_path / "best", "--data", few, "--split", "val", "--out", out, "--workers", "0"]
    status, said = server.run("eval", [str(one) for one in [*given, "--pass-size", "16"]])
    assert status == 0, said
    metrics = json.loads((out / "metrics.json").read_text())
    for group in ("by_reasoning_type", "by_target_size", "by_altitude"):
        assert {name: without_intervals(one) for name, one in metrics[group].items()} == scores[group]
    assert without_intervals(metrics["overall"]) == scores["overall"]


def without_intervals(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if not name.endswith("_interval")}


SCORES = """
from utils.evaluation.metrics import MaskScore
from utils.training import loop
pixels = iter([20, 50, 50, 30])

def predict(model, *given, **named):
    assert not model.training

def score_records(*given):
    score = MaskScore(0, 0, next(pixels), 100, 50, 1000, {"reasoning_type": "spatial", "altitude": 30})
    return [(score, None, 0)]

step = loop.Run.train_step

def checked(run, batches):
    assert run.engine.module.training
    return step(run, batches)

loop.predict, loop.score_records, loop.Run.train_step = predict, score_records, checked
"""


def test_the_best_checkpoint_is_that_of_the_highest_score(server: Server, data: Path, tmp_path: Path) -> None:
    arguments = ["--epochs", "7", "--steps-per-epoch", "1", "--validate-every", "2"]
    ended = server.train_well(data, tmp_path, *arguments, before=SCORES)
    assert list(ended.scalars("val/giou")) == [2, 4, 6, 7]  # the last epoch too
    assert ended.training("best")["epoch"] == 4 and ended.training("last")["epoch"] == 7
    assert ended.training("best")["validation"]["overall"]["giou"] == pytest.approx(0.5, abs=1e-3)
    assert any(not torch.equal(tensor, ended.state("last")[name]) for name, tensor in ended.state("best").items())


# The same run twice


@pytest.fixture(scope="module")
def plain(server: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run without adapters, of four records a step; its first batch is all twelve records' first four."""
    return server.train_well(data, tmp_path_factory.mktemp("runs"), "--batch-size", "4", "--epochs", "1", "--seed", "5")


@pytest.fixture(scope="module")
def fresh(server: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """What `plain` started from: the same run with a learning rate of nothing, for two passes."""
    arguments = ["--batch-size", "4", "--seed", "5", "--lr", "0"]
    return server.train_well(data, tmp_path_factory.mktemp("runs"), *arguments)


@pytest.fixture(scope="module")
def two_epochs(server: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """`plain` for two epochs."""
    return server.train_well(data, tmp_path_factory.mktemp("runs"), "--batch-size", "4", "--seed", "5")


def test_every_pass_has_every_record_in_another_order(plain: Ended, fresh: Ended) -> None:
    first, second = fresh.losses[:3], fresh.losses[3:]
    assert first[0] == plain.losses[0]
    assert sorted(first) != sorted(second) and sum(first) == pytest.approx(sum(second), rel=1e-6)


def test_pictures_are_mirrored_when_asked(server: Server, data: Path, fresh: Ended, tmp_path: Path) -> None:
    arguments = ["--batch-size", "4", "--seed", "5", "--lr", "0", "--mirror", "True"]  # `fresh`, mirrored
    turned = server.train_well(data, tmp_path, *arguments)
    assert len(turned.losses) == len(fresh.losses) and turned.losses != fresh.losses


def test_masks_are_compared_in_fewer_pixels_when_asked(
    server: Server, data: Path, fresh: Ended, tmp_path: Path
) -> None:
    smaller = server.train_well(data, tmp_path, "--batch-size", "4", "--seed", "5", "--lr", "0", "--mask-side", "16")
    pairs = list(zip(smaller.losses, fresh.losses, strict=True))
    assert all(one != other for one, other in pairs)
    assert all(one == pytest.approx(other, rel=0.2) for one, other in pairs)


def test_a_seed_gives_the_same_losses_again_and_another_one_others(
    server: Server, base: Ended, data: Path, tmp_path: Path
) -> None:
    with_adapters = ["--lora-rank", "2", "--lora-dropout", "0.1", "--workers", "1"]
    again = server.train_well(data, tmp_path / "again", *with_adapters)
    assert again.losses == base.losses
    state = base.state()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state().items())
    other = server.train_well(data, tmp_path / "other", *with_adapters, "--seed", "1")
    assert all(a != b for a, b in zip(other.losses, base.losses, strict=True))


def test_accumulated_batches_train_as_a_large_one(
    server: Server, plain: Ended, fresh: Ended, data: Path, tmp_path: Path
) -> None:
    arguments = ["--batch-size", "2", "--grad-accumulation", "2", "--epochs", "1", "--seed", "5"]
    halves = server.train_well(data, tmp_path / "halves", *arguments)
    assert "1 epochs of 3 steps, 4 records a step" in halves.log
    assert len(plain.losses) == 3 and halves.losses == pytest.approx(plain.losses, rel=1e-5)
    assert distance(halves, plain, fresh) < 1e-2


def distance(one: Ended, other: Ended, start: Ended) -> float:
    """How far two runs' weights are apart, as a share of the way that training took them."""
    states = [ended.state() for ended in (one, other, start)]
    assert states[0].keys() == states[1].keys() == states[2].keys()
    flat = [torch.cat([state[name].double().flatten() for name in states[0]]) for state in states]
    assert float((flat[1] - flat[2]).norm()) > 0
    return float((flat[0] - flat[1]).norm() / (flat[1] - flat[2]).norm())


# What trains


@pytest.fixture(scope="module")
def continued(server: Server, base: Ended, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A run that goes on from `base`, with its usual parts and adapters alone."""
    arguments = ["--init-from", base.folder / "last", "--lora-dropout", "0", "--lr", "1e-3"]
    return server.train_well(data, tmp_path_factory.mktemp("runs"), *arguments)


def test_frozen_parts_stay_as_they_are_and_trained_ones_change(base: Ended, continued: Ended) -> None:
    before, after = base.state(), continued.state()
    changed: dict[str, set[bool]] = {}
    for name in before:
        changed.setdefault(part_of(name), set()).add(not torch.equal(before[name], after[name]))
    for part in ("clip", "sam2", "language_model"):
        assert changed.pop(part) == {False}, part
    for part, found in changed.items():
        assert True in found, part
    assert set(changed) == {"fusion", "projector", "embeddings", "lm_head", "seg_projection", "mask_decoder", "lora"}
    trained = re.search(r"trained parameters: (.*); together", continued.log)[1]
    assert {one.split(" ")[0] for one in trained.split(", ")} == set(changed)


def test_a_run_goes_on_from_a_checkpoint(base: Ended, continued: Ended) -> None:
    assert f"starts from {base.folder / 'last'}" in continued.log
    # it begins where the other one ended, not where that one began
    assert continued.losses[0] < base.losses[0] - 0.5 * (base.losses[0] - base.losses[-1])
    assert continued.losses[-1] < continued.losses[0]
    config = json.loads((continued.folder / "last/config.json").read_text())
    assert config == json.loads((base.folder / "last/config.json").read_text())


def test_adapters_train_and_come_back(base: Ended) -> None:
    model, _ = load_model(base.folder / "best")
    assert model.config.lora == {"r": 2, "alpha": 16.0, "dropout": 0.1, "targets": ["q_proj", "v_proj"]}
    adapters = {name: tensor for name, tensor in model.named_parameters() if "lora_" in name}
    assert len(adapters) == 2 * 2 * 2
    assert all(tensor.any() for tensor in adapters.values())  # lora_B starts at zero


def test_recomputed_layers_give_the_same(
    server: Server, continued: Ended, base: Ended, data: Path, tmp_path: Path
) -> None:
    arguments = ["--init-from", base.folder / "last", "--lora-dropout", "0", "--lr", "1e-3"]
    ended = server.train_well(data, tmp_path, *arguments, "--gradient-checkpointing", "True")
    assert ended.losses == pytest.approx(continued.losses, rel=1e-5)


@pytest.mark.parametrize(
    "stage", [["--batch-size", "4"], ["--zero-stage", "2", "--batch-size", "2", "--grad-accumulation", "2"]]
)
def test_bf16(server: Server, plain: Ended, data: Path, tmp_path: Path, stage: list[str]) -> None:
    arguments = ["--epochs", "1", "--seed", "5", "--precision", "bf16", *stage]
    ended = server.train_well(data, tmp_path, *arguments)
    assert ended.losses == pytest.approx(plain.losses, rel=0.02) and ended.losses != plain.losses
    assert {tensor.dtype for tensor in ended.state().values()} >= {torch.bfloat16}
    load_model(ended.folder / "last")


# Mistakes


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_records(
    server: Server, data: Path, tmp_path: Path
) -> None:
    ended = server.train(data, tmp_path, "--lr", "1e30", "--warmup-steps", "0")
    assert ended.status == 2 and "Traceback" not in ended.said
    message = ended.said[ended.said.rindex("error: ") :]
    assert re.search(r"the loss at step [1-3] is not finite: \{'loss': (nan|inf)", message)
    records = json.loads((data / "labels/DRSeg_train.json").read_text())
    named = re.findall(r"(mini_train_\d+) \((?:'|\")(.*?)(?:'|\")\)", message)
    assert len(named) == 2
    assert {(one["id"], one["questions"][0]) for one in records} >= set(named)
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["--zero-stage", "7"], "--zero-stage is 7; ZeRO has stages 0, 1, 2 and 3"),
        (["--config", "huge"], "unknown configuration 'huge'; known are release, native, mini"),
        (["--batch-size", "13"], "12 training records fill no step of 13 records x 1 processes x 1 micro-steps"),
        (["--batch-size", "4", "--grad-accumulation", "4"], "fill no step of 4 records x 1 processes x 4 micro-steps"),
        (["--data", "no/such/folder"], "no/such/folder: no such data folder"),
        (["--dataset", "roofs"], "unknown data set 'roofs'; known are drseg"),
        (["--train-parts", "roof"], "unknown part roof; known are clip, sam2"),
        (["--init-from", "no/such/model"], "no/such/model: no such model folder"),
        (["--tokenizer", "no/such/tokenizer"], "no/such/tokenizer"),
        (["--override", "mask_sise=8"], "--override 'mask_sise=8'"),
        (["--override", "max_sequence=30"], "fit beside the image; shorten the question"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["--beta1", "1"], "--beta1 is 1.0; it must be at least 0 and less than 1"),
        (["--mask-side", "8"], "--mask-side is 8; it must be at least 16"),
        (
            ["--grounding-weight", "2", "--override", "geometry=centre_crop"],
            "--grounding-weight is 2.0, which needs letterboxed frames",
        ),
        (["--grounding-weight", "-1"], "--grounding-weight is -1.0; it must be at least 0"),
        (["--run-dir", "train.py"], "--run-dir train.py: cannot be made a folder"),
        (["--precision", "fp8"], "--precision is 'fp8'; known are fp32, bf16, fp16, mixed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_told(server: Server, data: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = server.train(data, tmp_path, *arguments)
    assert ended.status == 2 and message in ended.said, ended.said[-2000:]
    assert "Traceback" not in ended.said and not (tmp_path / "last").exists()


def test_a_missing_split_is_named(server: Server, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/labels/DRSeg_val.json").unlink()
    ended = server.train(tmp_path / "data", tmp_path / "run")
    assert ended.status == 2 and "DRSeg_val.json: no such split" in ended.said and "test, train" in ended.said
    assert "Traceback" not in ended.said


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_truncated_picture_is_named(server: Server, data: Path, tmp_path: Path, workers: str) -> None:
    shutil.copytree(data, tmp_path / "data")
    broken = tmp_path / "data/CODrone/DRtrain/mini_train_0002.jpg"
    broken.write_bytes(broken.read_bytes()[:4000])  # the header is whole
    ended = server.train(tmp_path / "data", tmp_path / "run", "--workers", workers)
    assert ended.status == 2 and str(broken) in ended.said, ended.said[-3000:]
    assert "Traceback" not in ended.said


# Two processes


@pytest.fixture(scope="module")
def pairs(server: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Ended]:
    """Runs like `two_epochs` on two processes, by ZeRO stage."""
    folder = tmp_path_factory.mktemp("runs")
    arguments = ["--seed", "5", "--eval-batch-size", "3", "--zero-stage"]
    return {stage: server.train_on_two(data, folder / f"{stage}", *arguments, str(stage)) for stage in (2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_train_as_one(pairs: dict[int, Ended], two_epochs: Ended, fresh: Ended, stage: int) -> None:
    ended = pairs[stage]
    assert "2 epochs of 3 steps, 4 records a step" in ended.log
    assert ended.losses == pytest.approx(two_epochs.losses, rel=0.02)
    shapes = [{name: tensor.shape for name, tensor in one.state().items()} for one in (ended, two_epochs)]
    assert shapes[0] == shapes[1]
    assert distance(ended, two_epochs, fresh) < 0.02
    assert ended.training()["validation"]["overall"]["count"] == 6
    assert ended.training()["validation"]["overall"]["giou"] == pytest.approx(
        two_epochs.training()["validation"]["overall"]["giou"], abs=0.01
    )


def test_one_process_alone_speaks(pairs: dict[int, Ended]) -> None:
    assert pairs[2].said.count("training and 6 validation records from") == 1
    assert "Traceback" not in pairs[2].said + pairs[3].said
