"""A run that is killed, asked to stop, or finds its state damaged or its disk full goes on exactly, or says why not."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.permissions import refused
from tests.training import CHECKOUT, TINY, Ended, Server, command, environment
from utils.runtime.errors import UserError
from utils.runtime.files import exclusive_lock
from utils.training.resume import find_damage, write_checksums

UMASK = os.umask(0)
os.umask(UMASK)

# Everything that draws at random is on; a line every second step, so that states fall between lines.
OPTIONS = ["--mirror", "True", "--lora-rank", "2", "--lora-dropout", "0.2"]
OPTIONS += ["--log-every", "2", "--grad-accumulation", "2", "--save-steps", "1", "--epochs", "3"]
KILL_AFTER = """
import os, signal, threading
threading.Timer({seconds}, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
"""
KILL_AT_STEP = """
import os, signal
from utils.training.loop import Run
train_step = Run.train_step

def killed(run, batches):
    if run.progress.step == {step}:
        os.kill(os.getpid(), signal.{signal})
    return train_step(run, batches)

Run.train_step = killed
"""


TERM_IN_VALIDATION = """
import multiprocessing, os, subprocess, time
import utils.evaluation.predict
answers_of = utils.evaluation.predict.answers_of

def terminated(*given):
    everyone = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    assert len(everyone) > 2  # one decodes pictures, another finishes masks
    subprocess.run(["kill", "-TERM", *map(str, everyone)], check=True)  # as a cluster does
    time.sleep(0.5)
    utils.evaluation.predict.answers_of = answers_of
    return answers_of(*given)

utils.evaluation.predict.answers_of = terminated
"""


def scalars(folder: Path) -> dict[int, float]:
    """The losses that TensorBoard shows, by step."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {one.step: one.value for one in events.Scalars("train/loss")}


def same(one: Ended, other: Ended) -> None:
    """The same losses, and the same weights to the bit."""
    assert scalars(one.folder) == scalars(other.folder)
    for which in ("last", "best"):
        states = [ended.state(which) for ended in (one, other)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        records = [ended.training(which) for ended in (one, other)]
        assert records[0]["validation"] == records[1]["validation"] and records[0]["step"] == records[1]["step"]


@pytest.fixture(scope="module")
def undisturbed(server: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Nine steps in three epochs, left alone."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    return server.train_well(data, folder, *OPTIONS)


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_as_one_left_alone(
    server: Server, data: Path, undisturbed: Ended, tmp_path: Path
) -> None:
    began = time.perf_counter()
    server.train_well(data, tmp_path / "timed", *OPTIONS)
    whole = time.perf_counter() - began
    moments, killed, resumed = random.Random(0), 0, 0
    for _ in range(100):
        delay = KILL_AFTER.format(seconds=moments.uniform(0, whole))
        ended = server.train(data, tmp_path / "run", *OPTIONS, before=delay)
        assert ended.status in (0, -signal.SIGKILL), ended.said[-3000:]
        killed += ended.status == -signal.SIGKILL
        resumed += "goes on after step" in ended.said
        if killed >= 10 and resumed:  # not each time from the start
            break
        whole *= 0.8 if ended.status == 0 else 1.1  # the machine's speed changes
        if ended.status == 0:  # it had come to its end: the next kill meets one that starts anew
            same(ended, undisturbed)
            shutil.rmtree(tmp_path / "run")
    assert killed >= 10 and resumed
    same(server.train_well(data, tmp_path / "run", *OPTIONS), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 2, 3, 8])  # within an epoch, at its end, at the last step
def test_a_run_killed_before_any_of_its_steps_goes_on_there(
    server: Server, data: Path, undisturbed: Ended, tmp_path: Path, step: int
) -> None:
    killed = server.train(data, tmp_path, *OPTIONS, before=KILL_AT_STEP.format(step=step, signal="SIGKILL"))
    assert killed.status == -signal.SIGKILL
    ended = server.train_well(data, tmp_path, *OPTIONS)
    if step:
        assert f"goes on after step {step}, from " in ended.said
    same(ended, undisturbed)
    assert not list((tmp_path / "state").glob("step-*")) and not (tmp_path / "state/.writing").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["--zero-stage", "2"], ["--zero-stage", "3"], ["--precision", "bf16", "--zero-stage", "2"]],
    ids=lambda arguments: " ".join(arguments),
)
def test_sharded_states_go_on_too(server: Server, data: Path, tmp_path: Path, arguments: list[str]) -> None:
    options = [*OPTIONS, *arguments]
    alone = server.train_well(data, tmp_path / "alone", *options)
    killed = server.train(data, tmp_path / "run", *options, before=KILL_AT_STEP.format(step=4, signal="SIGKILL"))
    assert killed.status == -signal.SIGKILL
    same(server.train_well(data, tmp_path / "run", *options), alone)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["0", "2", "3"])
def test_a_run_whose_folder_reads_as_a_pattern_goes_on(server: Server, data: Path, tmp_path: Path, stage: str) -> None:
    folder = tmp_path / "lr[1e-3]*?"
    options = [*OPTIONS, "--zero-stage", stage]
    killed = server.train(data, folder, *options, before=KILL_AT_STEP.format(step=4, signal="SIGKILL"))
    assert killed.status == -signal.SIGKILL
    ended = server.train_well(data, folder, *options)
    assert f"goes on after step 4, from {folder}" in ended.said


def test_a_state_that_may_not_be_read_is_not_passed_over_as_damaged(server: Server, data: Path, tmp_path: Path) -> None:
    server.train(data, tmp_path, *OPTIONS, before=KILL_AT_STEP.format(step=4, signal="SIGKILL"))
    newest = max((tmp_path / "state").glob("step-*"))
    for file in (newest / "checksums.json", next(newest.glob("*_model_states.pt")), newest):
        with refused(file), pytest.raises(UserError, match="permission denied"):
            find_damage(newest)
    assert find_damage(newest) == ""


def test_a_runs_folders_may_be_links(server: Server, data: Path, tmp_path: Path) -> None:
    run, big = tmp_path / "run", tmp_path / "big"
    run.mkdir(), big.mkdir()
    for name in ("best", "last", "state"):
        (run / name).symlink_to(big / name)  # that are not there yet
    server.train_well(data, run, *OPTIONS)
    assert all((run / name).is_symlink() for name in ("best", "last", "state"))
    assert {path.name for path in big.iterdir()} == {"best", "last", "state"}
    for which in ("best", "last"):
        assert all(path.stat().st_mode & 0o777 == 0o666 & ~UMASK for path in (big / which).iterdir())


def test_frozen_weights_are_read_again_not_saved(
    server: Server, data: Path, undisturbed: Ended, tmp_path: Path
) -> None:
    options = [*OPTIONS, "--init-from", undisturbed.folder / "last", "--epochs", "1"]  # CLIP and SAM2 stay fixed
    alone = server.train_well(data, tmp_path / "alone", *options)
    server.train(data, tmp_path / "run", *options, before=KILL_AT_STEP.format(step=2, signal="SIGKILL"))
    (state,) = (tmp_path / "run/state/step-00000002-epoch-0000").glob("*model_states.pt")
    names = torch.load(state, weights_only=True)["module"]
    assert not [name for name in names if name.startswith("pixel_path.encoder.trunk")]
    same(server.train_well(data, tmp_path / "run", *options), alone)


def test_sigterm_writes_a_state_and_leaves(server: Server, data: Path, undisturbed: Ended, tmp_path: Path) -> None:
    rarely = [*OPTIONS, "--save-steps", "0", "--save-minutes", "0"]
    stopped = server.train(data, tmp_path, *rarely, before=KILL_AT_STEP.format(step=4, signal="SIGTERM"))
    assert (
        stopped.status == 143 and "stopped by SIGTERM after step 5; the same command resumes from there" in stopped.said
    )
    assert "Traceback" not in stopped.said
    ended = server.train_well(data, tmp_path, *rarely)
    assert "goes on after step 5, from " in ended.said
    same(ended, undisturbed)


def test_a_damaged_state_is_told_and_the_one_before_is_used(
    server: Server, data: Path, undisturbed: Ended, tmp_path: Path
) -> None:
    server.train(data, tmp_path, *OPTIONS, before=KILL_AT_STEP.format(step=5, signal="SIGKILL"))
    states = sorted((tmp_path / "state").glob("step-*"))
    assert [state.name for state in states] == [
        "step-00000004-epoch-0001",
        "step-00000005-epoch-0001",
    ]  # as many as --keep
    (file,) = states[1].glob("*model_states.pt")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    ended = server.train_well(data, tmp_path, *OPTIONS)
    assert re.search(rf"step-00000005-epoch-0001 is damaged \({file.name} has changed\) and skipped", ended.said)
    assert "goes on after step 4, from " in ended.said
    same(ended, undisturbed)


def test_a_full_disk_stops_the_run_and_leaves_the_state_before(
    server: Server, data: Path, undisturbed: Ended, tmp_path: Path
) -> None:
    """A limit on the size of files stands in for a full disk: writing fails after a part."""
    fill = KILL_AT_STEP.format(step=5, signal="SIGKILL").replace(
        "os.kill(os.getpid(), signal.SIGKILL)", "__import__('resource').setrlimit(1, (200_000, 200_000))"
    )
    full = server.train(data, tmp_path, *OPTIONS, before=fill)
    assert full.status == 2 and "Traceback" not in full.said
    assert re.search(
        r"error: .*step-00000006-epoch-0001: not written, and nothing half-written is left \(.*\); is the disk full\?",
        full.said,
    )
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "step-00000004-epoch-0001",
        "step-00000005-epoch-0001",
    ]
    ended = server.train_well(data, tmp_path, *OPTIONS)
    assert "and skipped" not in ended.said and "goes on after step 5" in ended.said
    same(ended, undisturbed)


def test_another_command_does_not_go_on_with_this_runs_state(server: Server, data: Path, tmp_path: Path) -> None:
    server.train(data, tmp_path, *OPTIONS, before=KILL_AT_STEP.format(step=2, signal="SIGKILL"))
    other = server.train(data, tmp_path, *OPTIONS, "--lr", "2e-3")
    assert other.status == 2
    assert f"{tmp_path} is a run with other options (lr 0.0011, now 0.002); give the same" in other.said
    assert len(list((tmp_path / "state").glob("step-*"))) == 2
    anew = server.train_well(data, tmp_path, *OPTIONS, "--lr", "2e-3", "--restart")
    assert "resumes after" not in anew.said and list(scalars(tmp_path)) == [2, 3, 5, 6, 8, 9]


def test_a_run_goes_on_where_a_record_was_taken_out_and_one_reworded(
    server: Server, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    file = tmp_path / "data/labels/DRSeg_train.json"
    records = json.loads(file.read_text())
    records[5]["questions"] = ["<image>\nWhich car is red?"]
    file.write_text(json.dumps(records))
    refused = server.train(tmp_path / "data", tmp_path / "run", *OPTIONS)
    assert refused.status == 2 and not list((tmp_path / "run").rglob("step-*"))
    assert f"{file}: record 5 (id '{records[5]['id']}'): " in refused.said and "special token '<image>'" in refused.said
    skipping = [*OPTIONS, "--skip-bad-records", "True"]
    server.train(tmp_path / "data", tmp_path / "run", *skipping, before=KILL_AT_STEP.format(step=4, signal="SIGKILL"))
    records[0]["questions"] = ["Which one is it?"]
    file.write_text(json.dumps(records[:8]))
    ended = server.train_well(tmp_path / "data", tmp_path / "run", *skipping)
    assert "this run began with other training records: 11 (" in ended.said and ", now 7 (" in ended.said
    assert "goes on after step 4, from " in ended.said and ended.training("last")["step"] == 6  # not 3


def test_a_second_start_of_a_run_is_refused(server: Server, data: Path, tmp_path: Path) -> None:
    with exclusive_lock(tmp_path / "state/running"):
        second = server.train(data, tmp_path, *OPTIONS, "--restart")
    assert second.status == 2 and f"{tmp_path}: another process trains there" in second.said
    assert "Traceback" not in second.said and not list((tmp_path / "state").iterdir())


def test_a_run_that_has_ended_is_left_alone(server: Server, data: Path, undisturbed: Ended, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.folder, tmp_path / "run")
    written = (tmp_path / "run/last/model.safetensors").stat().st_mtime_ns
    again = server.train_well(data, tmp_path / "run", *OPTIONS)
    assert "has ended already, nothing is left to train; --restart trains it anew" in again.said
    assert (tmp_path / "run/last/model.safetensors").stat().st_mtime_ns == written
    other = server.train(data, tmp_path / "run", *OPTIONS, "--seed", "3")
    assert other.status == 2 and "(seed 0, now 3)" in other.said


def test_weights_whose_state_is_gone_are_not_replaced(server: Server, data: Path, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best/thesis.txt").write_text("mine")
    refused_run = server.train(data, tmp_path, *OPTIONS)
    assert refused_run.status == 2 and "best: holds weights already, and " in refused_run.said
    assert (tmp_path / "best/thesis.txt").read_text() == "mine"
    server.train_well(data, tmp_path, *OPTIONS, "--epochs", "1", "--restart")


@pytest.mark.slow
def test_a_run_of_an_earlier_version_goes_on_with_its_groups(server: Server, data: Path, tmp_path: Path) -> None:
    """Which decayed by name; its states do not say so."""
    earlier = """
from utils.training import engine, resume
groups = engine.parameter_groups
engine.parameter_groups = lambda model, weight_decay, by_name: groups(model, weight_decay, True)
"""
    options = [*OPTIONS, "--weight-decay", "0.3"]
    alone = server.train_well(data, tmp_path / "alone", *options, before=earlier)
    killed = KILL_AT_STEP.format(step=4, signal="SIGKILL")
    assert server.train(data, tmp_path / "run", *options, before=earlier + killed).status == -signal.SIGKILL
    for file in (tmp_path / "run/state").glob("step-*/progress.json"):
        record = json.loads(file.read_text())
        del record["decay"]
        file.write_text(json.dumps(record, indent=1))
        write_checksums(file.parent)
    same(server.train_well(data, tmp_path / "run", *options), alone)


@pytest.mark.slow
def test_two_processes_stop_and_go_on_together(server: Server, data: Path, tmp_path: Path) -> None:
    """SIGTERM to the launcher, as a cluster sends it."""
    options = [*OPTIONS, "--zero-stage", "2", "--batch-size", "1", "--save-steps", "0", "--epochs", "2"]
    options += ["--workers", "1"]  # which gets SIGTERM too
    alone = server.train_on_two(data, tmp_path / "alone", *options)
    launch = [sys.executable, "-m", "utils.cli.launch", "train.py", *command(data, tmp_path / "run", *options)]
    stopped = subprocess.Popen(launch, cwd=CHECKOUT, env=environment(NPROC="2"), stderr=subprocess.DEVNULL)
    log = tmp_path / "run/train.log"
    while stopped.poll() is None and not (log.is_file() and "step 2  " in log.read_text()):
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    assert stopped.wait(timeout=60) != 0
    assert "stopped by SIGTERM after step" in log.read_text()
    (state,) = (tmp_path / "run/state").glob("step-*")
    assert {"process-0.pt", "process-1.pt"} <= {path.name for path in state.iterdir()}
    again = server.train_on_two(data, tmp_path / "run", *options)
    assert again.said.count("goes on after step") == 1
    same(again, alone)


@pytest.mark.slow
def test_zero3_validates_several_batches_a_process_and_goes_on(server: Server, data: Path, tmp_path: Path) -> None:
    """At a size at which ZeRO-3 parts lm_head, which training fetches ahead and a validation does not use."""
    text = {**TINY["text_config"], "hidden_size": 512}
    options = ["--zero-stage", "3", "--precision", "bf16", "--lora-rank", "2", "--gradient-checkpointing", "True"]
    options += ["--batch-size", "1", "--grad-accumulation", "2", "--eval-batch-size", "1", "--epochs", "2"]
    options += ["--override", *(f"{name}={json.dumps(value)}" for name, value in {**TINY, "text_config": text}.items())]
    alone = server.train_on_two(data, tmp_path / "alone", *options)
    assert alone.state()["language_model.lm_head.weight"].numel() > 1e5  # DeepSpeed keeps smaller ones whole
    assert alone.training()["validation"]["overall"]["count"] == 6  # three batches a process
    stop = KILL_AT_STEP.format(step=4, signal="SIGTERM")
    stopped = server.processes("train", command(data, tmp_path / "run", *options), world=2, before=stop)
    assert [one.status for one in stopped] == [143, 143], stopped[0].stderr[-3000:]
    again = server.train_on_two(data, tmp_path / "run", *options)
    assert "goes on after step 5, from " in again.said
    same(again, alone)


# What goes wrong within a run

BAD = """
import torch
from model.pixdlm import PixDLMForCausalLM
forward, calls = PixDLMForCausalLM.forward, []

def spoilt(model, batch, weights=None):
    output = forward(model, batch, weights)
    if model.training:
        calls.append(1)
        if len(calls) in {calls}:
            zero = (model.projector.weight * 0).sum()
            output.loss = output.loss + {spoil}
    return output

PixDLMForCausalLM.forward = spoilt
"""
NO_LOSS, NO_GRADIENT = "zero / zero", "zero.sqrt()"  # the square root of 0 is 0, and has no slope


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "stage", "what"),
    [
        (NO_LOSS, "0", r"the loss at step 2 is not finite: \{'loss': nan"),
        (NO_LOSS, "2", r"the loss at step 2 is not finite: \{'loss': nan"),
        (NO_LOSS, "3", r"the loss at step 2 is not finite: \{'loss': nan"),
        (NO_GRADIENT, "0", "a gradient at step 2 is not finite"),
        (NO_GRADIENT, "2", "a gradient at step 2 is not finite"),
        (NO_GRADIENT, "3", "a gradient at step 2 is not finite"),
    ],
)
def test_what_is_no_number_is_left_out_as_often_as_allowed(
    server: Server, data: Path, tmp_path: Path, spoil: str, stage: str, what: str
) -> None:
    arguments = ["--zero-stage", stage, "--epochs", "1", "--max-bad-steps", "1"]
    once = server.train_well(data, tmp_path, *arguments, before=BAD.format(calls="{2}", spoil=spoil))
    assert re.search(f"skipped: {what}", once.said)
    assert all(torch.isfinite(tensor).all() for tensor in once.state().values())
    (line,) = (tmp_path / "bad_batches.jsonl").read_text().splitlines()
    records = {one["id"] for one in json.loads((data / "labels/DRSeg_train.json").read_text())}
    note = json.loads(line)
    assert note["step"] == 2 and re.match(what, note["what"]) and len(note["records"]) == 2
    assert {name.split(" ")[0] for name in note["records"]} <= records
    if spoil == NO_LOSS:
        twice = server.train(data, tmp_path / "two", *arguments, before=BAD.format(calls="{2, 3}", spoil=spoil))
        assert twice.status == 2 and re.search(
            rf"error: {what.replace('step 2', 'step 3')}.*the batch holds mini_train.*--max-bad-steps 2", twice.said
        )


HANG = KILL_AT_STEP.replace("os.kill(os.getpid(), signal.{signal})", "__import__('time').sleep(60)")


def test_sigterm_to_all_in_a_validation_lets_it_end(
    server: Server, data: Path, undisturbed: Ended, tmp_path: Path
) -> None:
    stopped = server.train(data, tmp_path, *OPTIONS, "--workers", "1", before=TERM_IN_VALIDATION)
    assert stopped.status == 143 and "stopped by SIGTERM after step" in stopped.said, stopped.said[-2000:]
    assert "died" not in stopped.said and "Traceback" not in stopped.said
    same(server.train_well(data, tmp_path, *OPTIONS, "--workers", "1"), undisturbed)


def test_a_state_that_is_there_is_not_written_again(server: Server, data: Path, tmp_path: Path) -> None:
    before = "import os; from utils.training.loop import Run; Run.validate = lambda *_: os.kill(os.getpid(), 9)"
    assert server.train(data, tmp_path, *OPTIONS, before=before).status == -9
    newest = max((tmp_path / "state").glob("step-*"))
    written = newest.stat().st_ino
    assert server.train(data, tmp_path, *OPTIONS, before=before).status == -9  # killed where it went on
    assert max((tmp_path / "state").glob("step-*")) == newest and newest.stat().st_ino == written


@pytest.mark.slow
def test_a_process_that_hangs_ends_and_says_where(server: Server, data: Path, tmp_path: Path) -> None:
    hung = server.train(data, tmp_path, *OPTIONS, "--timeout-minutes", "0.1", before=HANG.format(step=2))
    assert hung.status == 3
    assert "process 0 of 1 made no progress for 0.1 minutes (step 3)" in hung.said and "in killed" in hung.said
    ended = server.train_well(data, tmp_path, *OPTIONS)
    assert "goes on after step 2" in ended.said


def test_a_worker_that_dies_is_told(server: Server, data: Path, tmp_path: Path) -> None:
    kill = "__import__('multiprocessing').active_children()[0].kill(); __import__('time').sleep(1)"
    before = KILL_AT_STEP.replace("os.kill(os.getpid(), signal.{signal})", kill).format(step=1)
    ended = server.train(data, tmp_path, *OPTIONS, "--workers", "1", before=before)
    assert ended.status == 2 and "Traceback" not in ended.said
    assert re.search(r"error: a process that decodes pictures died \(.*\), often for lack of memory", ended.said)
