"""eval.py end to end on a handful of pictures and a fresh small model: files, numbers, processes, mistakes."""

from __future__ import annotations

import itertools
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from safetensors.torch import load_file, save_file

import eval as script
from model.checkpoints.load import load_tokenizer
from model.inputs.images import read_image
from model.language.tokens import SEG_TOKENS
from model.processor import PixDLMProcessor
from tests.training import Server
from utils.datasets.base import DatasetSpec, Sample, ScoringRules, target_masks
from utils.datasets.questions import question_fault
from utils.datasets.registry import DATASETS, load_dataset
from utils.evaluation.metrics import mask_counts
from utils.runtime.errors import run_main
from utils.runtime.machine import code_version


@pytest.fixture(autouse=True)
def left_as_found() -> Iterator[None]:
    """What the script sets for its process is undone, since here it shares one with the other tests."""
    root, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    torch.set_num_threads(threads)


@pytest.fixture
def evaluate(
    fresh_model: Path,
    seven_pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str, str]]:
    """Runs eval.py in this process on the CPU; gives status, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        given = ["--model", fresh_model, "--data", seven_pictures, "--out", tmp_path / "out", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, given), "--workers", "0", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_main(script.main)
        return (ended.value.code, *capsys.readouterr())

    return run


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def records_of(folder: Path, control: str | None = None) -> list[dict[str, Any]]:
    """The records of predictions.jsonl under a control, without its header."""
    return [one for one in lines_of(folder / "predictions.jsonl")[1:] if one.get("control") == control]


def test_every_number_follows_from_the_masks_that_are_written(
    evaluate: Callable, seven_pictures: Path, tmp_path: Path
) -> None:
    status, table, _ = evaluate("--pass-size", "3")
    assert status == 0
    metrics, scores = read(tmp_path / "out/metrics.json"), lines_of(tmp_path / "out/scores.jsonl")
    samples = {sample.key: sample for sample in load_dataset(seven_pictures, "test")}
    predictions = {one["id"]: one for one in records_of(tmp_path / "out")}
    assert list(predictions) == list(samples)
    for key, one in predictions.items():
        assert one["question"] == samples[key].question and one["status"] == "ok"
        assert one["text"] == " ".join(SEG_TOKENS * len(samples[key].targets))
    places = [(one["id"], one["target"], one["mask"]) for one in scores]
    assert places == [(key, k, k) for key, sample in samples.items() for k in range(len(sample.targets))]
    ious, sums = [], np.zeros(2, int)
    for one in scores:
        sample, predicted = samples[one["id"]], predictions[one["id"]]
        height, width = read_image(sample.image_path).shape[:2]
        truth = target_masks(sample, height, width)[one["target"]]
        counts = mask_counts(coco.decode(predicted["masks"][one["mask"]]), truth)
        assert (one["intersection"], one["union"]) == counts
        assert (one["area"], one["pixels"]) == (np.count_nonzero(truth == 1), height * width)
        assert one["groups"] == sample.groups and one["picture"] == f"DRtest/{sample.image_path.name}"
        assert one["iou"] == counts[0] / (counts[1] + 1e-5)
        assert one["score"] == predicted["scores"][one["mask"]] and 0 <= one["score"] <= 1
        ious.append(one["iou"])
        sums += counts
    assert metrics["overall"]["count"] == len(scores) == 14
    assert metrics["overall"]["giou"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert metrics["overall"]["ciou"] == sums[0] / sums[1]
    assert 0 < metrics["overall"]["giou"] < 1  # or nothing above would have been tried
    for group in ("by_reasoning_type", "by_target_size", "by_altitude"):
        assert sum(one["count"] for one in metrics[group].values()) == 14 and len(metrics[group]) > 1
        assert all(name in table for name in metrics[group])
    assert metrics["answers"] == {**dict.fromkeys(metrics["answers"], 0), "records": 13, "ok": 13, "malformed": None}
    assert metrics["config"]["model_type"] == "pixdlm"
    assert f"{metrics['overall']['giou']:.4f}" in table
    assert not (tmp_path / "out/overlays").exists()


def test_results_name_the_protocol_and_not_the_machine(evaluate: Callable, tmp_path: Path) -> None:
    assert evaluate("--limit", "5", "--polygons", "first", "--skip_bad_records")[0] == 0
    metrics, header = read(tmp_path / "out/metrics.json"), lines_of(tmp_path / "out/predictions.jsonl")[0]
    expected = {"kind": "forced", "reasoning": "none", "uses_ground_truth_text": False, "decoding": None}
    expected |= {"limit": 5, "polygons": "first", "skip_bad_records": True, "controls": ["none"], "seed": 0}
    expected |= {"matching": "order", "unit": "target", "dtype": "float32", "load_in": None, "threads": 1,
                 "pass_size": 8}  # fmt: skip
    assert expected.items() <= metrics["protocol"].items()
    facts = {"dataset": "drseg", "split": "test", "records": 5, "skipped": [], "unasked": []}
    assert facts.items() <= metrics["data"].items() and len(metrics["data"]["sha256"]) == 64
    assert metrics["versions"]["opencv"] and metrics["versions"]["torch"] == torch.__version__
    assert metrics["overall"]["count"] == 5 and metrics["checkpoint"] and metrics["code"] == code_version()
    assert all(metrics[name] == value for name, value in header.items() if name not in ("format", "protocol"))
    assert header["protocol"].items() <= metrics["protocol"].items() and metrics["protocol"]["metric"] == "clean"
    for file in ("metrics.json", "predictions.jsonl", "scores.jsonl"):
        assert str(tmp_path) not in (tmp_path / "out" / file).read_text()


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_half_precision_gives_nearly_the_same(evaluate: Callable, tmp_path: Path, precision: str, dtype: str) -> None:
    found = {}
    for name in ("fp32", precision):
        assert evaluate("--precision", name, "--out", tmp_path / name)[0] == 0
        found[name] = read(tmp_path / name / "metrics.json")
    assert found[precision]["protocol"]["dtype"] == dtype
    assert found[precision]["overall"]["giou"] == pytest.approx(found["fp32"]["overall"]["giou"], abs=0.03)


def copied(model: Path, folder: Path) -> Path:
    """A model folder's files, to be changed."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_model_with_one_target_an_answer_is_scored_on_their_union(
    evaluate: Callable, fresh_model: Path, tmp_path: Path
) -> None:
    single = copied(fresh_model, tmp_path / "single")
    (single / "config.json").write_text(json.dumps({**read(fresh_model / "config.json"), "single_target": True}))
    assert evaluate("--model", single, "--overlays", "99")[0] == 0
    assert all(len(one["masks"]) == 1 for one in records_of(tmp_path / "out"))
    scores = lines_of(tmp_path / "out/scores.jsonl")
    assert len(scores) == 13 and all(one["target"] == 0 and one["merged"] for one in scores)
    assert read(tmp_path / "out/metrics.json")["protocol"]["unit"] == "question"
    assert len(list((tmp_path / "out/overlays").iterdir())) == 13


def test_controls_change_what_they_say_and_nothing_else(evaluate: Callable, tmp_path: Path) -> None:
    for name, options in {"plain": [], "a": ["--controls"], "b": ["--controls", "--batch-size", "1"]}.items():
        status, table, _ = evaluate("--out", tmp_path / name, *options)
        assert status == 0
    controls = ("shuffled-questions", "swapped-images", "blank-question")
    for file in ("predictions.jsonl", "scores.jsonl", "metrics.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    plain, metrics = (read(tmp_path / name / "metrics.json") for name in ("plain", "a"))
    assert metrics["protocol"]["controls"] == ["none", *controls] and tuple(metrics["controls"]) == controls
    assert "controls" not in plain
    # what is asked beside them changes nothing
    assert records_of(tmp_path / "plain") == records_of(tmp_path / "a")
    assert all(metrics[name] == plain[name] for name in ("overall", "by_target_size", "by_altitude", "calibration"))
    first = records_of(tmp_path / "a")
    shuffled, swapped, blank = (records_of(tmp_path / "a", control) for control in controls)
    for under in (shuffled, swapped, blank):
        kept = ("id", "text", "status")
        assert [[one[key] for key in kept] for one in first] == [[one[key] for key in kept] for one in under]
        assert [one["masks"] for one in first] != [one["masks"] for one in under]  # it reads question and picture
        scores = [np.concatenate([one["scores"] for one in records]) for records in (first, under)]
        assert np.abs(scores[0] - scores[1]).max() > 1e-4
    questions = [one["question"] for one in first]
    assert Counter(questions) == Counter(one["question"] for one in shuffled)
    assert all(a != b["question"] for a, b in zip(questions, shuffled, strict=True))
    assert questions == [one["question"] for one in swapped] and {one["question"] for one in blank} == {""}
    for group in ("by_reasoning_type", "by_target_size"):
        counts = {name: one["count"] for name, one in metrics[group].items()}
        for control in controls:
            assert {name: one["count"] for name, one in metrics["controls"][control][group].items()} == counts
    title, overall = table.splitlines()[2:4]
    assert title.split()[-3:] == ["shuffled", "swapped", "blank"]
    assert overall.split()[-3:] == [f"{metrics['controls'][name]['overall']['giou']:.4f}" for name in controls]


def test_shuffled_questions_are_left_out_where_one_is_too_long_for_the_record_that_gets_it(
    evaluate: Callable, fresh_model: Path, seven_pictures: Path, tmp_path: Path
) -> None:
    """It fits beside the one mask of its own record, not beside the two of `p3`."""
    tokenizer, config = load_tokenizer(fresh_model)
    processor = PixDLMProcessor(config, tokenizer)
    asked = (replace(load_dataset(seven_pictures, "test")[0], question="car " * n) for n in itertools.count(1))
    long = next(one.question for one in asked if question_fault(one, 2, processor, "seg"))
    file = seven_pictures / "labels/DRSeg_test.json"
    records = [one if one["id"] == "p3" else {**one, "questions": [long] * len(one["questions"])} for one in read(file)]
    file.write_text(json.dumps(records))
    status, _, stderr = evaluate("--controls")
    assert status == 0 and re.search("no control shuffled-questions: .*'p3'.* fit beside the image", stderr), stderr
    assert tuple(read(tmp_path / "out/metrics.json")["controls"]) == ("swapped-images", "blank-question")


def test_controls_that_change_nothing_are_left_out_and_named(
    evaluate: Callable, seven_pictures: Path, tmp_path: Path
) -> None:
    status, _, stderr = evaluate("--controls", "--limit", "1")
    assert status == 0 and "no control shuffled-questions: there is one record" in stderr
    assert "no control swapped-images: the split shows one picture only" in stderr
    assert tuple(read(tmp_path / "out/metrics.json")["controls"]) == ("blank-question",)
    file = seven_pictures / "labels/DRSeg_test.json"
    file.write_text(json.dumps([{**one, "questions": ["Which?"] * len(one["questions"])} for one in read(file)]))
    status, _, stderr = evaluate("--controls")
    assert status == 0 and "no control shuffled-questions: all 13 records ask 'Which?'" in stderr
    assert tuple(read(tmp_path / "out/metrics.json")["controls"]) == ("swapped-images", "blank-question")


def test_overlays_are_spread_and_replace_earlier_ones(evaluate: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "out/overlays"
    for count, names in ((5, 5), (2, 2)):
        assert evaluate("--overlays", count)[0] == 0
        assert len(list(folder.iterdir())) == names
    assert [path.name for path in sorted(folder.iterdir())] == ["00000_0_p0.jpg", "00012_0_p6.jpg"]
    picture = read_image(folder / "00000_0_p0.jpg")
    assert picture.shape[1] == 3 * 360 and picture.shape[0] > 270
    assert evaluate("--overlays", 0)[0] == 0 and not list(folder.iterdir())  # none beside other results


def test_no_report_of_other_numbers_stays(evaluate: Callable, tmp_path: Path) -> None:
    page = tmp_path / "out/report.html"
    assert evaluate()[0] == 0 and page.is_file()
    assert evaluate("--report", "False")[0] == 0 and not page.exists()
    assert evaluate("--report", "False")[0] == 0  # where there is none


@pytest.mark.parametrize("kind", ["file in it", "link to a folder of others", "file"])
def test_overlays_take_the_place_of_overlays_alone(evaluate: Callable, tmp_path: Path, kind: str) -> None:
    folder, mine = tmp_path / "out/overlays", tmp_path / "holiday"
    mine.mkdir(), (mine / "me.jpg").write_text("mine"), folder.parent.mkdir()
    if kind == "file":
        folder.write_text("mine")
    elif kind == "file in it":
        mine.rename(folder)
    else:
        folder.symlink_to(mine)
    status, _, stderr = evaluate("--overlays", 1)
    assert status == 2 and "is no overlay of eval.py and would be deleted" in stderr
    assert (folder if kind == "file" else folder / "me.jpg").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
        (["--threads", "0"], "--threads is 0"),
        (["--workers", "-1"], "--workers is -1"),
        (["--overlays", "-1"], "--overlays is -1"),
        (["--limit", "0"], "--limit is 0"),
        (["--pass-size", "0"], "--pass-size is 0"),
        (["--protocol", "free"], "--protocol is 'free'; known are forced, generate"),
        (["--reasoning", "some"], "--reasoning is 'some'; known are none, own, given"),
        (["--temperature", "nan"], "temperature is nan; it must be finite"),
        (["--top-p", "0.9"], "top_p is 0.9, which is of sampling"),
        (["--max-new-tokens", "0"], "max_new_tokens and beams must be at least 1"),
        (["--shard", "--protocol", "generate"], "leave out --protocol generate, --reasoning own and --controls"),
        (["--shard", "--reasoning", "own"], "leave out --protocol generate, --reasoning own and --controls"),
        (["--shard", "--controls"], "leave out --protocol generate, --reasoning own and --controls"),
        (["--offload"], "--offload needs --shard"),
        (["--shard", "--device", "cuda:1"], "choose the GPU by CUDA_VISIBLE_DEVICES"),
        (["--split", "night"], "DRSeg_night.json: no such split"),
        (["--dataset", "roofs"], "unknown data set 'roofs'; known are drseg"),
        (["--polygons", "two"], "'two'; known are union, first"),
        (["--precision", "int8"], "--precision is 'int8'"),
        (["--device", "gpu"], "unknown device 'gpu'; expected auto, cpu, cuda, cuda:N or mps"),
        (["--device", "meta"], "unknown device 'meta'"),
        (["--device", "cuda:99"], "device cuda:99 is not there"),
        (["--model", "/no/model"], "/no/model: no such model folder"),
        (["--data", "/no/data"], "/no/data: no such data folder"),
        (["--batch-size", "many"], "invalid int value: 'many'"),
        (["--no-such-option", "1"], "--no-such-option"),
    ],
)
def test_mistakes_are_told_and_cost_nothing(
    evaluate: Callable, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/metrics.json").write_text("earlier")
    status, stdout, stderr = evaluate(*arguments)
    assert status == 2 and message in stderr and "Traceback" not in stderr and stdout == ""
    assert (tmp_path / "out/metrics.json").read_text() == "earlier"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.json"]


def test_parted_weights_are_not_asked_to_reason_by_default(
    evaluate: Callable, fresh_model: Path, tmp_path: Path
) -> None:
    learnt = copied(fresh_model, tmp_path / "learnt")
    (learnt / "config.json").write_text(json.dumps({**read(fresh_model / "config.json"), "answer_format": "reasoning"}))
    status, _, stderr = evaluate("--model", learnt, "--shard")
    assert status == 2 and "reasons by default; name --reasoning none or given" in stderr and "Traceback" not in stderr


LIMITED = """
import resource
import utils.evaluation.evaluate as evaluate
write_scores = evaluate.write_scores

def limited(*given):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
    write_scores(*given)

evaluate.write_scores = limited
"""


@pytest.mark.parametrize(("size", "name"), [(1_500, "metrics.json"), (17_000, "overlays"), (30_000, "report.html")])
def test_a_full_disk_does_not_cost_the_table(
    server: Server, fresh_model: Path, seven_pictures: Path, tmp_path: Path, size: int, name: str
) -> None:
    """A limit on the size of files stands in for it."""
    given = ["--model", fresh_model, "--data", seven_pictures, "--out", tmp_path / "out", "--workers", "0"]
    given += ["--overlays", "2" if name == "overlays" else "0"]
    (ended,) = server.processes("eval", given, before=LIMITED.format(size=size))
    assert ended.status == 2 and "Traceback" not in ended.stderr
    assert f"{tmp_path / 'out' / name}: not written, and nothing half-written is left" in ended.stderr, ended.stderr
    assert "gIoU" in ended.stdout and not (tmp_path / "out" / name).exists()
    assert (tmp_path / "out/predictions.jsonl").is_file()  # from which utils.evaluation.score makes the rest
    assert not [path for path in (tmp_path / "out").iterdir() if "writing" in path.name]


def test_a_folder_that_cannot_be_written_is_told_before_the_work(evaluate: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    status, _, stderr = evaluate("--out", tmp_path / "file", "--model", "/not/looked/for/yet")
    assert status == 2 and f"--out {tmp_path / 'file'}: cannot be made a folder" in stderr


def test_a_truncated_picture_is_named(evaluate: Callable, seven_pictures: Path) -> None:
    picture = seven_pictures / "CODrone/DRtest/p4.jpg"
    picture.write_bytes(picture.read_bytes()[:-400])
    for workers in ("0", "1"):  # in a worker the error arrives by another way
        status, _, stderr = evaluate("--workers", workers)
        assert status == 2 and f"{picture}: damaged or no picture" in stderr and "Traceback" not in stderr


def test_weights_that_give_no_numbers_are_told(evaluate: Callable, fresh_model: Path, tmp_path: Path) -> None:
    broken = copied(fresh_model, tmp_path / "broken")
    state = load_file(broken / "model.safetensors")
    name = next(name for name in state if name.startswith("seg_projection"))
    save_file({**state, name: torch.full_like(state[name], float("nan"))}, broken / "model.safetensors")
    status, stdout, stderr = evaluate("--model", broken)
    message = "7 of 7 answers have a mask that is not finite, the first that of record 'p0'; evaluate with --precision"
    assert status == 2 and message in stderr and "Traceback" not in stderr and stdout == ""
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["predictions.partial"]
    assert len(lines_of(tmp_path / "out/predictions.partial/0.jsonl")) == 1  # the header


def test_a_second_data_set_is_evaluated_by_its_own_rules(
    evaluate: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Registered here: groups of its own, gIoU alone, and a left half of every frame that is not counted."""

    def load(root: Path, split: str, *reading: Any) -> list[Sample]:
        half = ((0.0, 0.0, 40.0, 0.0, 40.0, 60.0, 0.0, 60.0),)
        return [
            replace(one, dataset="fields", groups={"crop": ("rye", "maize")[one.index % 2]}, ignore=half)
            for one in load_dataset(root, split)[:4]
        ]

    rules = {"clean": ScoringRules(("giou",), matching="hungarian", unit="question")}
    spec = DatasetSpec("fields", ("test",), "", "", load, rules, {"crop": "crop"})
    monkeypatch.setitem(DATASETS, "fields", spec)
    status, table, _ = evaluate("--dataset", "fields")
    assert status == 0
    metrics, scores = read(tmp_path / "out/metrics.json"), lines_of(tmp_path / "out/scores.jsonl")
    assert [name for name in metrics if name.startswith("by_")] == ["by_target_size", "by_crop"]
    assert metrics["overall"].keys() == {"count", "giou", "giou_interval"} == metrics["by_crop"]["rye"].keys()
    assert {name: one["count"] for name, one in metrics["by_crop"].items()} == {"maize": 2, "rye": 2}
    assert table.splitlines()[2].split() == ["count", "gIoU", "95", "%"] and "crop" in table and "altitude" not in table
    assert {"matching": "hungarian", "unit": "question"}.items() <= metrics["protocol"].items()
    assert metrics["data"]["dataset"] == "fields" and metrics["code"] == code_version()
    masks = {one["id"]: coco.decode(coco.merge(one["masks"])) for one in records_of(tmp_path / "out")}
    for i, one in enumerate(scores):  # no more than the right half, whatever was predicted in the left
        assert one["intersection"] <= one["union"] <= 60 * 40 and one["union"] >= masks[one["id"]][:, 40:].sum()
        assert one["groups"] == {"crop": ("rye", "maize")[i % 2]}
    assert any(mask[:, :40].any() for mask in masks.values())


def test_several_benchmarks_are_evaluated_as_each_would_be_alone(
    evaluate: Callable, seven_pictures: Path, tmp_path: Path
) -> None:
    assert evaluate()[0] == 0
    alone = {name: (tmp_path / "out" / name).read_bytes() for name in ("metrics.json", "predictions.jsonl")}
    folders = f"drseg={seven_pictures},again=drseg:{seven_pictures},muse={tmp_path}/gone"
    status, table, told = evaluate("--benchmarks", "again,muse,drseg", "--data", folders, "--out", tmp_path / "many")
    assert status == 0
    for name in ("drseg", "again"):
        assert {file: (tmp_path / "many" / name / "test" / file).read_bytes() for file in alone} == alone
    assert f"MUSE: skipped, {tmp_path}/gone is not there; it comes from http" in told
    giou = 100 * read(tmp_path / "out/metrics.json")["overall"]["giou"]
    summary = table[table.index("in percent;") :].splitlines()
    assert [line.split()[0] for line in summary if not line.startswith(" ")] == ["in", "DRSeg", "again", "MUSE:"]
    assert sum(f"{giou:.1f}" in line and "this model" in line for line in summary) >= 2
    written = read(tmp_path / "many/benchmarks.json")
    assert [one["benchmark"] for one in written["measured"]] == ["drseg", "again"] and len(written["skipped"]) == 1
    page = (tmp_path / "many/benchmarks.html").read_text()
    assert 'href="drseg/test/report.html"' in page and (tmp_path / "many/drseg/test/report.html").is_file()


def test_benchmarks_none_of_which_is_on_disk_are_told(evaluate: Callable, tmp_path: Path) -> None:
    status, _, told = evaluate("--benchmarks", "reasonseg", "--data", f"reasonseg={tmp_path}/gone")
    assert status == 2 and "ReasonSeg: skipped" in told and "none of them is on disk" in told


def test_rules_that_a_data_set_lacks_are_told_before_the_model_is_loaded(evaluate: Callable) -> None:
    status, _, told = evaluate("--metric", "lavt")
    assert status == 2 and "--metric is 'lavt'; drseg has clean, hungarian, official" in told
