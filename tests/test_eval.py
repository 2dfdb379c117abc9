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
from safetensors.torch import load_file

import eval as script
from model.checkpoints.load import load_tokenizer
from model.checkpoints.save import save_model
from model.inputs.images import read_image
from model.language.tokens import SEG_TOKENS, PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from model.presets import mini_config
from model.processor import PixDLMProcessor
from tests.training import Finished, Server
from utils.datasets.base import DatasetSpec, Sample, target_masks
from utils.datasets.questions import question_fault
from utils.datasets.registry import DATASETS, load_dataset
from utils.evaluation.metrics import mask_counts
from utils.runtime.errors import run_main
from utils.runtime.machine import code_version


@pytest.fixture(scope="module")
def model(tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with fresh weights; with this seed its masks cover about half of a frame."""
    tokenizer = PixTokenizer(tokenizer_file, system="")
    torch.manual_seed(1)
    fresh = PixDLMForCausalLM(mini_config(tokenizer.pieces.vocab_size()))
    folder = tmp_path_factory.mktemp("model") / "best"
    save_model(folder, fresh, tokenizer, fresh.state_dict(), {})
    return folder


@pytest.fixture
def data(make_drseg: Callable[..., Path], make_record: Callable[..., dict[str, Any]]) -> Path:
    """Seven pictures with one to three questions each, one of two targets, one of another size than its labels."""
    kinds = ("spatial", "attribute", "scene")
    records = []
    for i in range(7):
        asked = 1 + i % 3
        right = 20 + 8 * i
        records.append(
            make_record(
                f"p{i}",
                ann_list=[{"segmentation": [[10, 10, right, 10, right, 12 + 6 * i, 10, 12 + 6 * i]]}],
                questions=[f"Which car is number {i} {j}?" for j in range(asked)],
                answers=["<answer>It.</answer>"] * asked,
                reasoning_types=[kinds[(i + j) % 3] for j in range(asked)],
                altitude=(30, 100)[i % 2],
            )
        )
    records[3]["ann_list"].append({"segmentation": [50, 40, 70, 40, 60, 55]})
    return make_drseg(records, sizes={"p5": (120, 160)})


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
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs eval.py in this process on the CPU; gives status, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        given = ["--model", model, "--data", data, "--out", tmp_path / "out", "--device", "cpu", "--workers", "0"]
        monkeypatch.setattr(sys, "argv", ["eval.py", *map(str, given), *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            run_main(script.main)
        return (ended.value.code, *capsys.readouterr())

    return run


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def start(server: Server, world: int, model: Path, data: Path, out: Path, *arguments: str) -> list[Finished]:
    """eval.py on `world` processes, with the threads that a launcher on two cores gives each."""
    given = ["--model", model, "--data", data, "--out", out, "--batch-size", "2", *arguments]
    ended = server.processes("eval", given, world, threads=2 if world == 1 else 1)
    assert [one.status for one in ended] == [0] * world, ended
    return ended


def test_the_same_bytes_on_one_two_and_three_processes(server: Server, model: Path, data: Path, tmp_path: Path) -> None:
    found, tables = [], []
    for world in (1, 2, 3):
        out = tmp_path / f"{world}"
        ended = start(server, world, model, data, out, "--overlays", "2", "--workers", "1")
        assert all(one.stdout == "" for one in ended[1:])  # rank 0 alone speaks
        tables.append(ended[0].stdout)
        files = sorted(path for path in out.rglob("*") if path.is_file())
        found.append({str(path.relative_to(out)): path.read_bytes() for path in files})
    assert len(found[0]) == 4  # metrics, predictions, two overlays
    assert found[0] == found[1] == found[2]
    assert tables[0] == tables[1] == tables[2] and tables[0].split()[:4] == ["count", "gIoU", "cIoU", "overall"]


@pytest.mark.parametrize("options", [["--shard"], ["--shard", "--offload"]])
def test_parted_weights_give_the_same_bytes(
    server: Server, evaluate: Callable, model: Path, data: Path, tmp_path: Path, options: list[str]
) -> None:
    names = ("metrics.json", "predictions.json")
    assert evaluate("--batch-size", "2")[0] == 0
    whole = [(tmp_path / "out" / name).read_bytes() for name in names]
    first, _ = start(server, 2, model, data, tmp_path / "parted", *options)  # seven batches
    assert [(tmp_path / "parted" / name).read_bytes() for name in names] == whole
    size = sum(tensor.nbytes for tensor in load_file(model / "model.safetensors").values()) / 2**20
    own = float(re.search(r"([\d.]+) MiB of the weights, in each of \d processes", first.stderr)[1])
    assert own == pytest.approx(size / 2, rel=0.1)  # each share is rounded up


def test_every_number_follows_from_the_masks_that_are_written(
    evaluate: Callable, model: Path, data: Path, tmp_path: Path
) -> None:
    status, table, _ = evaluate("--batch-size", "3")
    assert status == 0
    metrics, predictions = read(tmp_path / "out/metrics.json"), read(tmp_path / "out/predictions.json")
    samples = {sample.index: sample for sample in load_dataset(data, "test")}
    places = [(one["index"], one["target"]) for one in predictions]
    assert places == [(i, k) for i in sorted(samples) for k in range(len(samples[i].targets))]
    ious, sums = [], np.zeros(2, int)
    for one in predictions:
        sample = samples[one["index"]]
        height, width = read_image(sample.image_path).shape[:2]
        truth = target_masks(sample, height, width)[one["target"]]
        counts = mask_counts(coco.decode(one["segmentation"]), truth)
        assert (one["intersection"], one["union"]) == counts
        assert (one["id"], one["question"]) == (sample.record_id, sample.question)
        assert one["groups"] == sample.groups
        assert one["text"] == " ".join(SEG_TOKENS * len(sample.targets))
        assert one["iou"] == counts[0] / (counts[1] + 1e-5) and 0 <= one["score"] <= 1
        ious.append(one["iou"])
        sums += counts
    assert metrics["overall"]["count"] == len(predictions) == 14
    assert metrics["overall"]["giou"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert metrics["overall"]["ciou"] == sums[0] / sums[1]
    assert 0 < metrics["overall"]["giou"] < 1  # or nothing above would have been tried
    for group in ("by_reasoning_type", "by_target_size", "by_altitude"):
        assert sum(one["count"] for one in metrics[group].values()) == 14 and len(metrics[group]) > 1
        assert all(name in table for name in metrics[group])
    assert metrics["config"]["model_type"] == "pixdlm"
    assert f"{metrics['overall']['giou']:.4f}" in table
    assert not (tmp_path / "out/overlays").exists()


def test_results_name_the_protocol_and_not_the_machine(evaluate: Callable, data: Path, tmp_path: Path) -> None:
    assert evaluate("--limit", "5", "--polygons", "first", "--skip_bad_records")[0] == 0
    metrics = read(tmp_path / "out/metrics.json")
    expected = {"kind": "forced", "dataset": "drseg", "split": "test", "polygons": "first", "dtype": "float32"}
    expected |= {"limit": 5, "records": 5, "skip_bad_records": True, "control": "none", "seed": 0, "threads": 1}
    expected |= {"matching": "order", "unit": "target"}
    assert expected.items() <= metrics["protocol"].items()
    assert metrics["protocol"]["opencv"] and metrics["protocol"]["torch"] == torch.__version__
    assert metrics["overall"]["count"] == 5
    assert str(tmp_path) not in (tmp_path / "out/metrics.json").read_text()


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_half_precision_gives_nearly_the_same(evaluate: Callable, tmp_path: Path, precision: str, dtype: str) -> None:
    found = {}
    for name in ("fp32", precision):
        assert evaluate("--precision", name, "--out", tmp_path / name)[0] == 0
        found[name] = read(tmp_path / name / "metrics.json")
    assert found[precision]["protocol"]["dtype"] == dtype
    assert found[precision]["overall"]["giou"] == pytest.approx(found["fp32"]["overall"]["giou"], abs=0.03)


def test_a_model_with_one_target_an_answer_is_scored_on_their_union(
    evaluate: Callable, model: Path, data: Path, tmp_path: Path
) -> None:
    config = read(model / "config.json")
    single = tmp_path / "single"
    single.mkdir()
    for file in model.iterdir():
        (single / file.name).write_bytes(file.read_bytes())
    (single / "config.json").write_text(json.dumps({**config, "single_target": True}))
    assert evaluate("--model", single, "--overlays", "99")[0] == 0
    predictions = read(tmp_path / "out/predictions.json")
    assert len(predictions) == 13 and {one["target"] for one in predictions} == {0}
    assert len(list((tmp_path / "out/overlays").iterdir())) == 13


def test_the_control_swaps_questions_and_nothing_else(evaluate: Callable, tmp_path: Path) -> None:
    found = {}
    for name, options in {
        "plain": [],
        "a": ["--control", "shuffled-questions"],
        "b": ["--control", "shuffled-questions"],
    }.items():
        assert evaluate("--out", tmp_path / name, *options)[0] == 0
        found[name] = read(tmp_path / name / "metrics.json"), read(tmp_path / name / "predictions.json")
    assert found["a"] == found["b"]
    (metrics, plain), (control, swapped) = found["plain"], found["a"]
    assert (metrics["protocol"]["control"], control["protocol"]["control"]) == ("none", "shuffled-questions")
    first = {one["index"]: one["question"] for one in plain}
    second = {one["index"]: one["question"] for one in swapped}
    assert Counter(first.values()) == Counter(second.values())
    assert all(first[i] != second[i] for i in first)
    kept = ("id", "index", "target", "text", "groups")
    assert [[one[key] for key in kept] for one in plain] == [[one[key] for key in kept] for one in swapped]
    for group in ("by_reasoning_type", "by_target_size"):
        assert {k: v["count"] for k, v in metrics[group].items()} == {k: v["count"] for k, v in control[group].items()}
    assert [one["segmentation"] for one in plain] != [one["segmentation"] for one in swapped]  # it reads the question


def test_a_question_too_long_for_the_record_that_gets_it_is_told_before_the_work(
    evaluate: Callable, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fits beside the one mask of its own record, not beside the two of `p3`."""
    tokenizer, config = load_tokenizer(model)
    processor = PixDLMProcessor(config, tokenizer)
    asked = (replace(load_dataset(data, "test")[0], question="car " * n) for n in itertools.count(1))
    long = next(one.question for one in asked if question_fault(one, 2, processor, "seg"))
    file = data / "labels/DRSeg_test.json"
    records = [one if one["id"] == "p3" else {**one, "questions": [long] * len(one["questions"])} for one in read(file)]
    file.write_text(json.dumps(records))
    monkeypatch.setattr(script, "load_model", lambda *given, **named: pytest.fail("the model is loaded"))
    status, _, stderr = evaluate("--control", "shuffled-questions")
    assert status == 2 and "'p3'" in stderr and "Traceback" not in stderr, stderr


def test_the_other_control_shows_the_language_model_another_picture(evaluate: Callable, tmp_path: Path) -> None:
    runs = {"plain": [], "swapped": ["--control", "swapped-images"], "again": []}
    found = {}
    for name, options in runs.items():
        assert evaluate("--out", tmp_path / name, *options)[0] == 0
        predictions = read(tmp_path / name / "predictions.json")
        found[name] = [one["score"] for one in predictions], [one["question"] for one in predictions]
    assert read(tmp_path / "swapped/metrics.json")["protocol"]["control"] == "swapped-images"
    assert found["plain"][1] == found["swapped"][1]
    assert found["plain"] == found["again"]
    assert found["plain"][0] != pytest.approx(found["swapped"][0], abs=1e-4)


def test_the_other_control_needs_another_picture(evaluate: Callable) -> None:
    status, _, error = evaluate("--control", "swapped-images", "--batch-size", "1")
    assert status == 2 and re.search("at --batch-size 1 a batch has one picture only, .*use --batch-size 7", error)
    assert "Traceback" not in error
    assert "no size of batches has them" in evaluate("--control", "swapped-images", "--limit", "1")[2]


def test_overlays_are_spread_and_replace_earlier_ones(evaluate: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "out/overlays"
    for count, names in ((5, 5), (2, 2)):
        assert evaluate("--overlays", count)[0] == 0
        assert len(list(folder.iterdir())) == names
    assert [path.name for path in sorted(folder.iterdir())] == ["00000_0_p0.jpg", "00012_0_p6.jpg"]
    picture = read_image(folder / "00000_0_p0.jpg")
    assert picture.shape[1] == 3 * 360 and picture.shape[0] > 270
    assert evaluate("--overlays", 0)[0] == 0 and not list(folder.iterdir())  # none beside other results


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
        (["--offload"], "--offload needs --shard"),
        (["--shard", "--device", "cuda:1"], "choose the GPU by CUDA_VISIBLE_DEVICES"),
        (["--split", "night"], "DRSeg_night.json: no such split"),
        (["--dataset", "coco"], "unknown data set 'coco'; known are drseg"),
        (["--polygons", "two"], "'two'; known are union, first"),
        (["--precision", "int8"], "--precision is 'int8'"),
        (["--device", "gpu"], "unknown device 'gpu'; expected auto, cpu, cuda or cuda:N"),
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


@pytest.mark.parametrize(("size", "name"), [(1_500, "metrics.json"), (6_000, "predictions.json"), (17_000, "overlays")])
def test_a_full_disk_does_not_cost_the_table(
    server: Server, model: Path, data: Path, tmp_path: Path, size: int, name: str
) -> None:
    """A limit on the size of files stands in for it."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    given = ["--model", model, "--data", data, "--out", tmp_path / "out", "--overlays", "2", "--workers", "0"]
    (ended,) = server.processes("eval", given, before=limit)
    assert ended.status == 2 and "Traceback" not in ended.stderr
    assert f"{tmp_path / 'out' / name}: not written, and nothing half-written is left" in ended.stderr, ended.stderr
    assert "gIoU" in ended.stdout and not (tmp_path / "out" / name).exists()
    assert not [path for path in (tmp_path / "out").iterdir() if "writing" in path.name]


def test_a_folder_that_cannot_be_written_is_told_before_the_work(evaluate: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    status, _, stderr = evaluate("--out", tmp_path / "file", "--model", "/not/looked/for/yet")
    assert status == 2 and f"--out {tmp_path / 'file'}: cannot be made a folder" in stderr


def test_a_truncated_picture_is_named(evaluate: Callable, data: Path) -> None:
    picture = data / "CODrone/DRtest/p4.jpg"
    picture.write_bytes(picture.read_bytes()[:-400])
    for workers in ("0", "1"):  # in a worker the error arrives by another way
        status, _, stderr = evaluate("--workers", workers)
        assert status == 2 and f"{picture}: damaged or no picture" in stderr and "Traceback" not in stderr


def test_weights_that_give_no_numbers_are_told(evaluate: Callable, model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    broken.mkdir()
    for file in model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    state = load_file(broken / "model.safetensors")
    name = next(name for name in state if name.startswith("seg_projection"))
    save_file({**state, name: torch.full_like(state[name], float("nan"))}, broken / "model.safetensors")
    status, stdout, stderr = evaluate("--model", broken)
    assert status == 2 and "14 of 14 masks are not finite, the first that of record 'p0'" in stderr and stdout == ""
    assert not list((tmp_path / "out").iterdir())


def test_a_second_data_set_is_evaluated_by_its_own_rules(
    evaluate: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Registered here: groups of its own, gIoU alone, and a left half of every frame that is not counted."""

    def load(root: Path, split: str, polygons: str, skip_bad_records: bool, orientation: str) -> list[Sample]:
        half = ((0.0, 0.0, 40.0, 0.0, 40.0, 60.0, 0.0, 60.0),)
        return [
            replace(one, dataset="fields", groups={"crop": ("rye", "maize")[one.index % 2]}, ignore=half)
            for one in load_dataset(root, split)[:4]
        ]

    spec = DatasetSpec("fields", ("test",), "", "", load, metrics=("giou",), group_titles={"crop": "crop"})
    monkeypatch.setitem(DATASETS, "fields", replace(spec, matching="hungarian", unit="question"))
    status, table, _ = evaluate("--dataset", "fields")
    assert status == 0
    metrics, predictions = read(tmp_path / "out/metrics.json"), read(tmp_path / "out/predictions.json")
    assert [name for name in metrics if name.startswith("by_")] == ["by_target_size", "by_crop"]
    assert metrics["overall"].keys() == {"count", "giou"} == metrics["by_crop"]["rye"].keys()
    assert {name: one["count"] for name, one in metrics["by_crop"].items()} == {"maize": 2, "rye": 2}
    assert table.splitlines()[0].split() == ["count", "gIoU"] and "crop" in table and "altitude" not in table
    expected = {"dataset": "fields", "matching": "hungarian", "unit": "question", "code": code_version()}
    assert expected.items() <= metrics["protocol"].items()
    for one in predictions:  # no more than the right half, whatever was predicted in the left
        mask = coco.decode(one["segmentation"])
        assert one["intersection"] <= one["union"] <= 60 * 40 and one["union"] >= mask[:, 40:].sum()
        assert one["groups"] == {"crop": ("rye", "maize")[one["index"] % 2]}
    assert any(coco.decode(one["segmentation"])[:, :40].any() for one in predictions)
