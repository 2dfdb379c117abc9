"""eval.py gives the same bytes on any number of processes, however many answers are written at once, and however often
it was killed."""

from __future__ import annotations

import itertools
import json
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoints.load import load_tokenizer
from model.checkpoints.save import save_model
from model.pixdlm import load_model
from model.processor import PixDLMProcessor
from tests.training import Finished, Server
from utils.datasets.questions import question_fault
from utils.datasets.registry import load_dataset

FILES = ("predictions.jsonl", "scores.jsonl", "metrics.json")
CONTROLLED = ["--controls", "--pass-size", "2"]
WRITTEN = ["--protocol", "generate", "--reasoning", "own", "--max-new-tokens", "28", "--pass-size", "2"]
SAMPLED = [*WRITTEN, "--temperature", "1.5"]

KILL = """
import os, signal
from utils.evaluation.predictions import PartialPredictions as Partial
writes, write = [], Partial.write

def kill(*given, **named):
    os.kill(os.getpid(), signal.SIGKILL)

def killed_after(count, torn=False):
    def written(self, records):
        write(self, records)
        writes.append(1)
        if len(writes) == count:
            if torn:
                self.file.write('{"id": "p1#0", "quest')
                self.file.flush()
            kill()
    Partial.write = written
"""
OURS = "import utils.evaluation.evaluate as ours\nours"
MOMENTS = {  # in the order in which they come
    "before the model is loaded": "scripts['eval'].load_model = kill",
    "after an answer": "killed_after(1)",
    "within a line": "killed_after(2, torn=True)",
    "after more answers": "killed_after(3)",
    "before the results": f"{OURS}.write_results = kill",
    "after the results": f"{OURS}.draw_overlays = kill",
}


@pytest.fixture(scope="module")
def writer(fresh_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`fresh_model`, whose words lead to a [SEG] group: after the first token of one comes the next for certain."""
    model, _ = load_model(fresh_model)
    tokenizer, _ = load_tokenizer(fresh_model)
    seg, embeddings = tokenizer.seg_ids, model.language_model.model.embed_tokens.weight
    head, axes = model.language_model.lm_head.weight, torch.eye(embeddings.shape[1])
    with torch.no_grad():
        embeddings[:, : len(seg)] = head[:, : len(seg)] = 0
        head[seg] = 0
        head[seg[0]] = 1.1 * head[tokenizer.pieces.piece_to_id("<0x54>")]  # which it would say sooner or later
        for token, following, axis in zip(seg, [*seg[1:], 2], axes, strict=False):
            embeddings[token] = 10 * axis
            head[following] += axis
    folder = tmp_path_factory.mktemp("model") / "writer"
    save_model(folder, model, tokenizer, model.state_dict(), {})
    return folder


def evaluate(
    server: Server, model: Path, data: Path, out: Path, *arguments: str, world: int = 1, before: str = ""
) -> list[Finished]:
    """eval.py on `world` processes, with the threads that a launcher on two cores gives each."""
    given = ["--model", model, "--data", data, "--out", out, "--workers", "0", *arguments]
    return server.processes("eval", given, world, before, threads=2 if world == 1 else 1)


def results(
    server: Server, model: Path, data: Path, out: Path, *arguments: str, world: int = 1
) -> tuple[list[Finished], dict[str, bytes]]:
    """How an evaluation that has to end well ended, and its files."""
    ended = evaluate(server, model, data, out, *arguments, world=world)
    assert [one.status for one in ended] == [0] * world, ended
    assert not (out / "predictions.partial").exists()
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return ended, {str(path.relative_to(out)): path.read_bytes() for path in files}


def numbers(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: found[name] for name in FILES}


@pytest.mark.slow
@pytest.mark.parametrize("options", [CONTROLLED, [*WRITTEN, "--batch-size", "3"]], ids=["forced", "generate"])
def test_the_same_bytes_on_one_two_and_three_processes(
    server: Server, writer: Path, seven_pictures: Path, tmp_path: Path, options: list[str]
) -> None:
    found, tables = [], []
    out = tmp_path / "eval"
    for world in (1, 2, 3):
        given = [*options, "--overlays", "2", "--workers", "1"]
        ended, files = results(server, writer, seven_pictures, out, *given, world=world)
        assert all(one.stdout == "" for one in ended[1:])  # rank 0 alone speaks
        tables.append(ended[0].stdout)
        found.append(files)
        out.rename(tmp_path / f"{world}")
    assert {*FILES, "report.html"} < set(found[0]) and len(found[0]) == 6  # and two overlays
    assert found[0] == found[1] == found[2]
    assert tables[0] == tables[1] == tables[2] and "drseg test: 13 records about 7 pictures" in tables[0]


@pytest.mark.slow
@pytest.mark.parametrize("options", [CONTROLLED, WRITTEN], ids=["forced", "generate"])
def test_the_same_bytes_however_many_answers_are_written_at_once(
    server: Server, writer: Path, seven_pictures: Path, tmp_path: Path, options: list[str]
) -> None:
    found = []
    for size in ("1", "4", "7"):
        given = [*options, "--batch-size", size, "--report", "False"]
        found.append(numbers(results(server, writer, seven_pictures, tmp_path / size, *given)[1]))
    assert found[0] == found[1] == found[2]
    answers = [json.loads(line) for line in found[0]["predictions.jsonl"].splitlines()[1:]]
    if options == WRITTEN:  # or nothing would have been tried
        assert {one["status"] for one in answers} >= {"ok"} and len({len(one["text"]) for one in answers}) > 3


def test_what_is_written_beside_a_question_that_fills_the_context_is_not_cut(
    server: Server, writer: Path, seven_pictures: Path, tmp_path: Path
) -> None:
    file = seven_pictures / "labels/DRSeg_test.json"
    records = json.loads(file.read_text())
    tokenizer, config = load_tokenizer(writer)
    processor, sample = PixDLMProcessor(config, tokenizer), load_dataset(seven_pictures, "test")[0]
    asked = ("car " * n for n in itertools.count(1))
    longest = next(one for one in asked if question_fault(replace(sample, question=one), 2, processor, "seg"))
    records[0]["questions"] = [longest]  # fits beside its one mask, and leaves no room for two
    file.write_text(json.dumps(records))
    found = []
    for size in ("1", "7"):
        given = [*WRITTEN, "--batch-size", size, "--report", "False", "--limit", "4"]
        found.append(numbers(results(server, writer, seven_pictures, tmp_path / size, *given)[1]))
    assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--shard"], ["--shard", "--offload"]])
def test_parted_weights_give_the_same_bytes(
    server: Server, fresh_model: Path, seven_pictures: Path, tmp_path: Path, options: list[str]
) -> None:
    given = ["--pass-size", "2", "--report", "False"]  # nine passes
    _, whole = results(server, fresh_model, seven_pictures, tmp_path / "whole", *given)
    ended, parted = results(server, fresh_model, seven_pictures, tmp_path / "parted", *given, *options, world=2)
    assert numbers(parted) == numbers(whole)
    size = sum(tensor.nbytes for tensor in load_file(fresh_model / "model.safetensors").values()) / 2**20
    own = float(re.search(r"([\d.]+) MiB of the weights, in each of \d processes", ended[0].stderr)[1])
    assert own == pytest.approx(size / 2, rel=0.1)  # each share is rounded up


@pytest.mark.slow
@pytest.mark.parametrize("options", [CONTROLLED, SAMPLED], ids=["forced", "sampled"])
def test_an_evaluation_killed_six_times_ends_as_one_left_alone(
    server: Server, writer: Path, seven_pictures: Path, tmp_path: Path, options: list[str]
) -> None:
    given = [*options, "--report", "False"]
    _, alone = results(server, writer, seven_pictures, tmp_path / "alone", *given)
    gone_on = []
    for moment in MOMENTS.values():
        (ended,) = evaluate(server, writer, seven_pictures, tmp_path / "out", *given, before=KILL + moment)
        assert ended.status == -signal.SIGKILL, ended.stderr
        gone_on += re.findall(r"goes on from (\d+) answers", ended.stderr)
    (last,), found = results(server, writer, seven_pictures, tmp_path / "out", *given)
    assert len(gone_on) == 4 and gone_on == sorted(gone_on, key=int) and int(gone_on[-1]) > int(gone_on[0]) > 0
    every = len((tmp_path / "out/predictions.jsonl").read_bytes().splitlines()) - 1
    assert f"goes on from {every} answers" in last.stderr and int(gone_on[-1]) == every  # none is asked twice
    assert numbers(found) == numbers(alone)


def test_an_evaluation_killed_on_two_processes_goes_on_on_any_number(
    server: Server, writer: Path, seven_pictures: Path, tmp_path: Path
) -> None:
    given = [*CONTROLLED, "--report", "False"]
    _, alone = results(server, writer, seven_pictures, tmp_path / "alone", *given)
    for victim in (1, 0):  # the other one ends with an error, as its group is gone
        before = f"{KILL}if os.environ['RANK'] == '{victim}': killed_after(1)"
        ended = evaluate(server, writer, seven_pictures, tmp_path / "out", *given, world=2, before=before)
        assert ended[victim].status == -signal.SIGKILL and ended[1 - victim].status != 0
    ended, found = results(server, writer, seven_pictures, tmp_path / "out", *given, world=3)
    assert int(re.search(r"goes on from (\d+) answers", ended[0].stderr)[1]) > 0
    assert numbers(found) == numbers(alone)


def test_what_is_sampled_does_not_depend_on_which_passes_are_left(
    server: Server, writer: Path, seven_pictures: Path, tmp_path: Path
) -> None:
    """Four passes, of 3, 4, 5 and 1 records; the second and the last, which would fit into one, are left."""
    given = [*SAMPLED, "--pass-size", "5", "--report", "False"]
    _, alone = results(server, writer, seven_pictures, tmp_path / "alone", *given)
    before = f"{KILL}import utils.evaluation.evaluate as ours\nif os.environ['RANK'] == '1': ours.predict = kill"
    ended = evaluate(server, writer, seven_pictures, tmp_path / "out", *given, world=2, before=before)
    assert ended[1].status == -signal.SIGKILL
    (again,), found = results(server, writer, seven_pictures, tmp_path / "out", *given)
    assert "goes on from 8 answers" in again.stderr
    assert numbers(found) == numbers(alone)


def test_answers_of_other_settings_are_not_gone_on_from(
    server: Server, writer: Path, seven_pictures: Path, tmp_path: Path
) -> None:
    given = ["--pass-size", "2", "--report", "False"]
    evaluate(server, writer, seven_pictures, tmp_path / "out", *given, before=f"{KILL}killed_after(2)")
    (ended,), found = results(server, writer, seven_pictures, tmp_path / "out", *given, "--pass-size", "3")
    assert "left by an evaluation with other settings, weights or code; begun anew" in ended.stderr
    assert numbers(found) == numbers(
        results(server, writer, seven_pictures, tmp_path / "alone", *given, "--pass-size", "3")[1]
    )


FULL = """
import resource
from utils.evaluation.predictions import PartialPredictions as Partial
init = Partial.__init__

def limited(self, *given):
    {when}
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
    {otherwise}

Partial.__init__ = limited
"""


@pytest.mark.parametrize("at", ["the header", "an answer"])
def test_a_full_disk_is_told_and_the_answers_before_stay(
    server: Server, writer: Path, seven_pictures: Path, tmp_path: Path, at: str
) -> None:
    """A limit on the size of files stands in for it."""
    calls = ("pass", "init(self, *given)") if at == "the header" else ("init(self, *given)", "pass")
    size = 500 if at == "the header" else 6_000
    full = FULL.format(when=calls[0], size=size, otherwise=calls[1])
    given = ["--pass-size", "2", "--report", "False"]
    (ended,) = evaluate(server, writer, seven_pictures, tmp_path / "out", *given, before=full)
    assert ended.status == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert f"{tmp_path}/out/predictions.partial: not written" in ended.stderr
    (again,), found = results(server, writer, seven_pictures, tmp_path / "out", *given)
    if at == "an answer":
        assert int(re.search(r"goes on from (\d+) answers", again.stderr)[1]) > 0
    assert numbers(found) == numbers(results(server, writer, seven_pictures, tmp_path / "alone", *given)[1])


SECOND = """
import importlib, os
from utils.runtime.errors import run_main
script, module = scripts["eval"], importlib.import_module("utils.evaluation.evaluate")

def beside(function):
    def called(*given, **named):
        child = os.fork()
        if not child:
            module.predict, module.write_scores = predict, write_scores
            try:
                run_main(script.main)
            except SystemExit as ended:
                os._exit(ended.code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
        return function(*given, **named)
    return called

predict, write_scores = module.predict, module.write_scores
module.predict, module.write_scores = beside(predict), beside(write_scores)
"""


def test_a_second_evaluation_into_a_folder_is_refused(
    server: Server, fresh_model: Path, seven_pictures: Path, tmp_path: Path
) -> None:
    given = ["--report", "False"]
    (ended,) = evaluate(server, fresh_model, seven_pictures, tmp_path / "out", *given, before=SECOND)
    assert ended.status == 0, ended.stderr
    assert ended.stderr.count(f"error: {tmp_path}/out: another evaluation writes there; wait, or name another") == 2
    _, alone = results(server, fresh_model, seven_pictures, tmp_path / "alone", *given)
    assert all((tmp_path / "out" / name).read_bytes() == alone[name] for name in FILES)
