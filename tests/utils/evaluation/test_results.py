"""utils.evaluation.results: what the files name beside the numbers."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoints.backbones import Backbones
from model.checkpoints.export import save_published
from model.checkpoints.save import save_model
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from utils.cli.eval_options import EvalArgs
from utils.datasets.base import DatasetSpec, Sample, ScoringRules
from utils.datasets.drseg import SPEC
from utils.evaluation import results
from utils.evaluation.controls import CONTROLS
from utils.evaluation.header import checked_header
from utils.evaluation.protocols import GENERATE, GIVEN_REASONING, Protocol, protocol_of
from utils.evaluation.results import RunFacts, data_facts, run_header, write_results
from utils.runtime.errors import UserError

SAMPLE = Sample(Path("a.jpg"), "Which?", None, (((0, 0, 4, 0, 4, 4),),), 9, 9, "drseg", "a", 3, key="a.json")

PUBLISHED, NO_BACKBONES = Protocol(), Backbones()


@pytest.fixture
def folder(tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer) -> Path:
    save_model(tmp_path / "one", tiny_model, tokenizer, tiny_model.state_dict(), {})
    return tmp_path / "one"


def header(
    model: PixDLMForCausalLM,
    folder: Path,
    protocol: Protocol = PUBLISHED,
    spec: DatasetSpec = SPEC,
    backbones: Backbones = NO_BACKBONES,
    **options: Any,
) -> dict[str, Any]:
    args = asdict(EvalArgs(model="m", data="d", **options))
    data = data_facts("drseg", "test", [SAMPLE])
    facts = RunFacts(args, protocol, spec, data, model, folder, backbones, torch.float32)
    return json.loads(json.dumps(run_header(facts)))


# Data


def test_data_are_named_by_questions_and_targets_wherever_they_lie() -> None:
    facts = data_facts("drseg", "test", [SAMPLE, replace(SAMPLE, key="b", index=4)], ["c.json"])
    assert {"dataset": "drseg", "split": "test", "records": 2, "pictures": 1, "skipped": ["c.json"]}.items() <= (
        facts.items()
    )
    first = data_facts("drseg", "test", [SAMPLE])["sha256"]
    moved = replace(SAMPLE, image_path=Path("/elsewhere/a.jpg"), source="x", index=9)
    assert data_facts("drseg", "val", [moved])["sha256"] == first
    others = [
        replace(SAMPLE, question="Where?"),
        replace(SAMPLE, key="b.json"),
        replace(SAMPLE, targets=(((0, 0, 4, 0, 4, 5),),)),
        replace(SAMPLE, ignore=((0, 0, 1, 0, 1, 1),)),
        replace(SAMPLE, height=10),
    ]
    found = {data_facts("drseg", "test", [one])["sha256"] for one in others}
    assert len(found) == len(others) and first not in found


# The header


def test_the_header_has_the_data_sets_rules(tiny_model: PixDLMForCausalLM, folder: Path) -> None:
    found = header(tiny_model, folder)
    assert {"matching": "order", "unit": "target"}.items() <= found["protocol"].items()
    assert found["data"]["records"] == 1
    spec = DatasetSpec("roofs", ("all",), "", "", list, {"clean": ScoringRules(matching="hungarian", unit="question")})
    rules = header(tiny_model, folder, spec=spec)["protocol"]
    assert {"matching": "hungarian", "unit": "question"}.items() <= rules.items()
    tiny_model.config.single_target = True  # several targets are then their union, whatever the data set says
    assert header(tiny_model, folder)["protocol"]["unit"] == "question"


def test_the_header_says_how_the_model_was_asked(tiny_model: PixDLMForCausalLM, folder: Path) -> None:
    forced = header(tiny_model, folder)["protocol"]
    assert {"kind": "forced", "reasoning": "none", "uses_ground_truth_text": False, "decoding": None}.items() <= (
        forced.items()
    )
    decoding = PUBLISHED.decoding
    asked = protocol_of(GENERATE, GIVEN_REASONING, replace(decoding, temperature=0.5, top_p=0.8), CONTROLS, 7)
    rules = header(tiny_model, folder, asked, pass_size=3, threads=1, polygons="first")["protocol"]
    assert rules["uses_ground_truth_text"] and rules["kind"] == "generate" and rules["controls"] == list(CONTROLS)
    assert {"temperature": 0.5, "top_p": 0.8, "seed": 7}.items() <= rules["decoding"].items()
    whole = header(tiny_model, folder, asked, limit=3)
    assert checked_header("", whole) is whole and whole["protocol"]["limit"] == 3
    assert {"pass_size": 3, "threads": 1, "polygons": "first", "dtype": "float32", "seed": 7}.items() <= rules.items()


def test_the_header_says_what_the_model_was_quantised_in(tiny_model: PixDLMForCausalLM, folder: Path) -> None:
    plain = header(tiny_model, folder)
    assert plain["protocol"]["load_in"] is None and "bitsandbytes" not in plain["versions"]
    for load_in, named in (("4bit", True), ("int8", False)):
        tiny_model.load_in = load_in
        found = checked_header("a header", header(tiny_model, folder))
        assert found["protocol"]["load_in"] == load_in and ("bitsandbytes" in found["versions"]) == named
        assert json.dumps(found) != json.dumps(plain)  # nothing of one is gone on from as the other


def test_the_header_names_code_hardware_and_checkpoint(
    tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "code_version", lambda: "1234567-dirty")
    monkeypatch.setattr(results, "cpu_model", lambda: "a CPU")
    first = header(tiny_model, folder)
    weights = folder / "model.safetensors"
    assert first["checkpoint"] == {"model.safetensors": hashlib.sha256(weights.read_bytes()).hexdigest()}
    assert first["code"] == "1234567-dirty" and first["hardware"] == {"device": "cpu", "name": "a CPU"}
    assert first["versions"]["torch"] == torch.__version__
    with torch.no_grad():
        tiny_model.projector.bias.add_(1)
    save_model(folder, tiny_model, tokenizer, tiny_model.state_dict(), {})
    assert header(tiny_model, folder)["checkpoint"] != first["checkpoint"]


def test_the_header_of_a_published_folder_names_its_backbones_too(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    save_published(tmp_path / "published", tiny_model, tokenizer, {})
    hashes = header(tiny_model, tmp_path / "published")["checkpoint"]
    assert {"pytorch_model.bin", "clip/model.safetensors", "sam2/sam2.pt"} < hashes.keys()
    file = tmp_path / "published" / "clip" / "model.safetensors"
    assert hashes["clip/model.safetensors"] == hashlib.sha256(file.read_bytes()).hexdigest()


# The files


def test_metrics_and_a_line_for_each_score_are_written(tmp_path: Path) -> None:
    write_results(tmp_path, {"overall": {"giou": 0.5}}, [{"id": "ä"}, {"id": "b"}])
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"overall": {"giou": 0.5}}
    assert (tmp_path / "scores.jsonl").read_text(encoding="utf-8") == '{"id": "ä"}\n{"id": "b"}\n'


def test_what_utf_8_cannot_write_stands_as_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe9")
    write_results(tmp_path, {"made_by": name}, [{"id": name}])
    assert (tmp_path / "scores.jsonl").read_bytes() == b'{"id": "\\udce9"}\n'
    assert json.loads((tmp_path / "metrics.json").read_bytes()) == {"made_by": name}


@pytest.mark.parametrize("name", ["metrics.json", "scores.jsonl"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name}: not written"):
        write_results(tmp_path, {}, [])
