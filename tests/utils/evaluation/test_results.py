"""utils.evaluation.results: what the files name beside the numbers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
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
from utils.datasets.base import DatasetSpec, Sample
from utils.datasets.drseg import SPEC
from utils.evaluation import results
from utils.evaluation.metrics import MaskScore
from utils.evaluation.predict import Prediction
from utils.evaluation.results import protocol, write_results
from utils.runtime.errors import UserError

OPTIONS = asdict(EvalArgs(model="m", data="d"))
SCORES = {"overall": {"count": 1, "giou": 0.5}}


def rules(model: PixDLMForCausalLM, spec: DatasetSpec = SPEC) -> dict[str, Any]:
    return protocol(OPTIONS, spec, 7, model, torch.float32)


def written(out: Path, model: PixDLMForCausalLM, folder: Path, backbones: Backbones) -> dict[str, Any]:
    """metrics.json of a model folder, with no mask."""
    write_results(out, SCORES, rules(model), model, (folder, backbones), [], {})
    return json.loads((out / "metrics.json").read_text())


def test_the_protocol_has_the_data_sets_rules(tiny_model: PixDLMForCausalLM) -> None:
    assert {"matching": "order", "unit": "target", "records": 7}.items() <= rules(tiny_model).items()
    spec = DatasetSpec("roofs", ("all",), "", "", list, matching="hungarian", unit="question")
    assert {"matching": "hungarian", "unit": "question"}.items() <= rules(tiny_model, spec).items()
    tiny_model.config.single_target = True  # several targets are then their union, whatever the data set says
    assert rules(tiny_model)["unit"] == "question"


def test_metrics_name_checkpoint_and_code(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "code_version", lambda: "1234567-dirty")
    found = []
    for name in ("one", "other"):
        save_model(tmp_path / name, tiny_model, tokenizer, tiny_model.state_dict(), {})
        metrics = written(tmp_path / "out", tiny_model, tmp_path / name, Backbones())
        expected = hashlib.sha256((tmp_path / name / "model.safetensors").read_bytes()).hexdigest()
        assert metrics["checkpoint"] == {"model.safetensors": expected}
        assert metrics["protocol"]["code"] == "1234567-dirty" and metrics["overall"] == SCORES["overall"]
        found.append(metrics["checkpoint"])
        with torch.no_grad():
            tiny_model.projector.bias.add_(1)
    assert found[0] != found[1]


def test_metrics_of_a_published_folder_name_its_backbones_too(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    save_published(tmp_path / "published", tiny_model, tokenizer, {})
    hashes = written(tmp_path / "out", tiny_model, tmp_path / "published", Backbones())["checkpoint"]
    assert {"pytorch_model.bin", "clip/model.safetensors", "sam2/sam2.pt"} < hashes.keys()
    file = tmp_path / "published" / "clip" / "model.safetensors"
    assert hashes["clip/model.safetensors"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_prediction_is_written_with_its_question_and_groups(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    save_model(tmp_path / "one", tiny_model, tokenizer, tiny_model.state_dict(), {})
    sample = Sample(Path("a.jpg"), "Which?", None, (), 9, 9, "drseg", "a", 3, groups={"altitude": 30})
    rle = {"size": [9, 9], "counts": "`2"}
    one = Prediction(MaskScore(3, 1, 5, 10, 6, 81, sample.groups), 0.75, rle, "[SEG0]")
    checkpoint = tmp_path / "one", Backbones()
    write_results(tmp_path / "out", SCORES, rules(tiny_model), tiny_model, checkpoint, [one], {3: sample})
    (record,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    expected = {"id": "a", "index": 3, "target": 1, "question": "Which?", "text": "[SEG0]", "groups": {"altitude": 30}}
    expected |= {"iou": one.score.iou, "intersection": 5, "union": 10, "score": 0.75, "segmentation": rle}
    assert record == expected


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, tiny_model: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    save_model(tmp_path / "one", tiny_model, tokenizer, tiny_model.state_dict(), {})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/metrics\.json: not written"):
        written(tmp_path / "file", tiny_model, tmp_path / "one", Backbones())
