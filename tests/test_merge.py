"""merge.sh and extract.py as a user runs them: round trips, formats, and targets that cannot be written."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from model.checkpoints.backbones import Backbones, weight_hashes
from model.checkpoints.export import check_target
from model.checkpoints.layouts import load_config
from model.checkpoints.load import load_parts, load_pretrained
from model.checkpoints.save import save_model
from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import PixTokenizer
from model.lora import lora_settings
from model.pixdlm import PixDLMForCausalLM
from tests.training import CHECKOUT, Server
from utils.cli.train_options import TrainArgs
from utils.runtime.errors import UserError
from utils.training.setup import build_training_model

SCORES = {"overall": {"count": 3, "giou": 0.5, "ciou": 0.25}}
TRAINING = {"epoch": 2, "step": 7, "settings": {"lr": 3e-4}, "validation": SCORES}


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a script's `main` in this process, which spares the start of another."""

    def call_main(script: str, *arguments: str | Path) -> None:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        importlib.import_module(script).main()

    return call_main


@pytest.fixture
def adapted(tiny_config: PixDLMConfig) -> PixDLMForCausalLM:
    """A tiny model with adapters that change what it gives."""
    tiny_config.lora = lora_settings(4, 8.0, 0.0, ["q_proj", "v_proj"])
    torch.manual_seed(0)
    model = PixDLMForCausalLM(tiny_config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def run_folder(tmp_path: Path, adapted: PixDLMForCausalLM, tokenizer: PixTokenizer) -> Path:
    """What train.py writes."""
    save_model(tmp_path / "best", adapted, tokenizer, adapted.state_dict(), TRAINING)
    return tmp_path / "best"


@torch.no_grad()
def logits(model: PixDLMForCausalLM, batch: Batch) -> torch.Tensor:
    return torch.cat([one.flatten() for one in model(batch.to("cpu", model.dtype)).mask_logits]).float()


# Merging


@pytest.mark.parametrize(("precision", "rounding"), [("fp32", 1e-5), ("bf16", 2**-8)])
def test_merging_changes_the_logits_by_rounding_alone(
    call: Callable[..., None],
    tmp_path: Path,
    run_folder: Path,
    adapted: PixDLMForCausalLM,
    collate: Callable[..., Batch],
    precision: str,
    rounding: float,
) -> None:
    call("merge_lora", run_folder, tmp_path / "merged", "--precision", precision)
    merged = load_pretrained(PixDLMForCausalLM, tmp_path / "merged")
    assert merged.config.lora is None and not any("lora_" in name for name in merged.state_dict())
    before, after = logits(adapted, collate()), logits(merged, collate())
    without = PixDLMForCausalLM.from_pretrained(run_folder)
    for module in without.modules():
        if hasattr(module, "lora_B"):
            module.lora_B["default"].weight.data.zero_()
    spread = before.std()
    # what bf16 rounds of weights adds up over the layers; without the adapters it is far more
    assert (after - before).abs().max() < 40 * rounding * spread
    assert (logits(without, collate()) - before).abs().max() > (3 if precision == "bf16" else 100) * (
        after - before
    ).abs().max()


def test_a_merged_folder_has_all_that_it_needs(call: Callable[..., None], tmp_path: Path, run_folder: Path) -> None:
    call("merge_lora", run_folder, tmp_path / "merged")
    shutil.rmtree(run_folder)
    names = {file.name for file in (tmp_path / "merged").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.model", "processor_config.json",
                     "generation_config.json", "training.json", "README.md"}  # fmt: skip
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        weights = {file.get_tensor(n).dtype for n in file.keys() if file.get_tensor(n).numel() > 1}  # noqa: SIM118
    assert torch.bfloat16 in weights
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "| overall | 3 | 0.500 | 0.250 |" in card and "lr: 0.0003" in card
    load_pretrained(PixDLMForCausalLM, tmp_path / "merged")


def test_a_card_names_the_evaluation_of_these_weights(
    call: Callable[..., None], tmp_path: Path, run_folder: Path
) -> None:
    hashes = weight_hashes(run_folder, load_config(run_folder), Backbones())
    metrics = {
        "overall": {"count": 9, "giou": 0.75, "giou_interval": [0.5, 0.875], "ciou": 0.5, "ciou_interval": None},
        "controls": {"blank-question": {"overall": {"count": 9, "giou": 0.125}}},
        "data": {"dataset": "drseg", "split": "test", "records": 9, "pictures": 3, "sha256": "a" * 64},
        "protocol": {"kind": "generate", "reasoning": "given", "uses_ground_truth_text": True,
                     "decoding": {"temperature": 0.0, "beams": 2}},
        "code": "0123abcd",
        "checkpoint": hashes,
        "hardware": {"device": "cpu", "name": "A processor"},
    }  # fmt: skip
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(metrics))
    call("merge_lora", run_folder, tmp_path / "out", "--metrics", file)
    card = (tmp_path / "out/README.md").read_text()
    assert "| | count | gIoU | cIoU | blank question |" in card
    assert "| overall | 9 | 0.750 [0.500, 0.875] | 0.500 | 0.125 |" in card
    assert f"- data: drseg test, 9 records about 3 pictures, sha256 `{'a' * 64}`" in card
    assert "- protocol: generate, reasoning given (the data set's answers are input)" in card
    assert "- decoding: temperature 0.0, beams 2" in card and "- code: 0123abcd" in card
    assert f"sha256 `{hashes['model.safetensors']}`" in card and "- hardware: A processor (cpu)" in card
    for changed, said in (
        ({**metrics, "checkpoint": {"model.safetensors": "b" * 64}}, "the evaluated weights are not those of"),
        ({"overall": {}}, "no metrics.json of eval.py"),
    ):
        file.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=said):
            call("merge_lora", run_folder, tmp_path / "other", "--metrics", file)


def test_merged_as_published_and_read(call: Callable[..., None], tmp_path: Path, run_folder: Path) -> None:
    call("merge_lora", run_folder, tmp_path / "own", "--precision", "fp32")
    call("merge_lora", run_folder, tmp_path / "published", "--precision", "fp32", "--format", "published")
    own, published = (load_pretrained(PixDLMForCausalLM, tmp_path / name).state_dict() for name in ("own", "published"))
    assert own.keys() == published.keys() and all(torch.equal(own[n], published[n]) for n in own)
    # and back from there
    call("merge_lora", tmp_path / "published", tmp_path / "again", "--precision", "fp32")
    again = load_pretrained(PixDLMForCausalLM, tmp_path / "again").state_dict()
    assert all(torch.equal(own[n], again[n]) for n in own)


def test_evaluation_of_the_merged_is_that_of_the_trained(
    call: Callable[..., None], tmp_path: Path, tiny_drseg: Path, run_folder: Path
) -> None:
    call("merge_lora", run_folder, tmp_path / "merged", "--precision", "fp32")
    counts = []
    for name in ("best", "merged"):
        call(
            "eval",
            "--model",
            tmp_path / name,
            "--data",
            tiny_drseg,
            "--out",
            tmp_path / f"{name}-eval",
        )
        metrics = json.loads((tmp_path / f"{name}-eval" / "metrics.json").read_text())
        counts.append({key: value for key, value in metrics.items() if key not in ("config", "checkpoint")})
    trained, merged = (one.pop("calibration") for one in counts)  # of confidences, whose last digits merging rounds
    assert counts[0] == counts[1] and trained["ece"] == pytest.approx(merged["ece"], abs=1e-6)


def test_a_published_folder_is_evaluated_and_marked(
    server: Server, tmp_path: Path, tiny_drseg: Path, run_folder: Path
) -> None:
    published = tmp_path / "published"
    settings = {**os.environ, "PIXDLM_PYTHON": sys.executable, "DS_ACCELERATOR": "cpu"}
    command = ["bash", "merge.sh", run_folder, published, "--format", "published"]
    subprocess.run(command, cwd=CHECKOUT, env=settings, check=True, capture_output=True)
    (published / "align_stages.bin").unlink()
    arguments = ["--model", published, "--data", tiny_drseg, "--out", tmp_path / "eval"]
    status, said = server.run("eval", arguments)
    assert status == 2 and "--fusion neutral" in said and "Traceback" not in said
    status, said = server.run("eval", [*arguments, "--fusion", "neutral"])
    assert status == 0 and "not the published model" in said
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["protocol"]["neutral_fusion"] is True


# What cannot be written


def test_a_target_that_exists_is_kept(server: Server, tmp_path: Path, run_folder: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    status, said = server.run("merge_lora", [run_folder, tmp_path / "out"])
    assert status == 2 and "exists already; name another target or pass --overwrite" in said
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    status, said = server.run("merge_lora", ["--overwrite", run_folder, tmp_path / "out"])
    assert status == 2 and "is a folder without config.json" in said
    (tmp_path / "out" / "config.json").write_text("{}")
    status, said = server.run("merge_lora", ["--overwrite", run_folder, tmp_path / "out"])
    assert status == 0 and re.search(r"4 matrices merged; at most (?!0\.00)\d", said)
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_the_checkpoint_is_never_the_target(call: Callable[..., None], tmp_path: Path, run_folder: Path) -> None:
    for out in (run_folder, run_folder.parent, run_folder / "merged", Path(".")):
        source = run_folder if out != Path(".") else CHECKOUT / "PixDLM" / "mini"
        with pytest.raises(UserError, match="is, holds or lies in the checkpoint"):
            call("merge_lora", source, out.resolve(), "--overwrite")
    with pytest.raises(UserError, match="lies in the checkpoint"):
        call("extract", run_folder, run_folder / "model.safetensors", "--parts", "fusion", "--overwrite")
    load_pretrained(PixDLMForCausalLM, run_folder)


def test_a_disk_without_room_is_told_before_anything_is_written(
    call: Callable[..., None], tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.checkpoints.export.shutil.disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"needs 0\.00 GiB, .* has 0\.00 GiB free"):
        call("merge_lora", run_folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_trained_backbones_are_not_left_out(
    call: Callable[..., None], tmp_path: Path, adapted: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    record = {"settings": {"train_parts": ["clip"], "from_scratch": False}}
    save_model(tmp_path / "best", adapted, tokenizer, adapted.state_dict(), record)
    with pytest.raises(UserError, match="clip were trained in this run"):
        call("merge_lora", tmp_path / "best", tmp_path / "out", "--without-backbones")


@pytest.mark.parametrize("kind", ["pixdlm", "published"])
def test_a_full_disk_leaves_nothing(server: Server, tmp_path: Path, run_folder: Path, kind: str) -> None:
    before = {file: file.read_bytes() for file in run_folder.iterdir()}
    place = tmp_path / "disk"
    place.mkdir()
    # files of at most 50 KB: the weights are cut off on the way
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    status, said = server.run("merge_lora", [run_folder, place / "out", "--format", kind], before=limit)
    assert status == 2 and "out: not written, and nothing half-written is left" in said and "Traceback" not in said
    assert list(place.iterdir()) == []
    assert {file: file.read_bytes() for file in run_folder.iterdir()} == before


@pytest.mark.parametrize("script", ["merge_lora", "extract"])
def test_a_wrong_folder_is_told(server: Server, tmp_path: Path, script: str) -> None:
    more = ["--parts", "fusion"] if script == "extract" else []
    (tmp_path / "empty").mkdir()
    status, said = server.run(script, [tmp_path / "empty", tmp_path / "out", *more])
    assert status == 2 and "no config.json in it" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


# Parts


def test_parts_are_listed(run_folder: Path) -> None:
    command = [sys.executable, "extract.py", run_folder]
    lines = subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout.splitlines()
    found = {line.split()[0] for line in lines if "tensors" in line}
    (projector,) = (line.split() for line in lines if line.startswith("projector"))
    with safe_open(run_folder / "model.safetensors", "pt") as file:
        numbers = sum(file.get_tensor(f"projector.{name}").numel() for name in ("weight", "bias"))
    assert projector[1:] == ["2", "tensors", f"{numbers:,}", "parameters"]
    assert found == {"clip", "sam2", "fusion", "projector", "embeddings", "lm_head", "seg_projection", "mask_decoder",
                     "language_model", "lora"}  # fmt: skip


def test_extracted_parts_start_a_training(
    call: Callable[..., None], tmp_path: Path, run_folder: Path, adapted: PixDLMForCausalLM, tokenizer: PixTokenizer
) -> None:
    out = tmp_path / "parts.safetensors"
    call("extract", run_folder, out, "--parts", "fusion,projector,lora")
    small = {k: v for k, v in adapted.config.to_dict().items() if k not in ("dtype", "lora", "model_type")}
    args = TrainArgs(
        config="native",
        override=[f"{name}={json.dumps(small[name])}" for name in ("text_config", "vision_config", "pixel_encoder")]
        + [f"{name}={value}" for name, value in small.items() if type(value) is int],
        from_scratch=True,
        tokenizer=str(tokenizer.path),
        init_from=str(out),
        lora_rank=1,  # not what the file says
        lora_alpha=99.0,
    )
    model, _, _ = build_training_model(args)
    mine, theirs = model.state_dict(), adapted.state_dict()
    extracted = [n for n in theirs if n.startswith(("fusion.", "projector.")) or "lora_" in n]
    assert len(extracted) > 40 and all(torch.equal(mine[n], theirs[n]) for n in extracted)
    name = "mask_decoder.upscaling.0.weight"
    assert not torch.equal(mine[name], theirs[name])
    assert model.config.lora == adapted.config.lora
    args.override = [one for one in args.override if not one.startswith("text_config")]
    args.override += ['text_config={"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}']
    with pytest.raises(
        UserError,
        match=r"parts\.safetensors does not fit this configuration:\n  misshapen: .* is \(4, 32\), expected \(4, 64\)",
    ):
        build_training_model(args)


def test_the_fusion_as_published(
    call: Callable[..., None], tmp_path: Path, run_folder: Path, adapted: PixDLMForCausalLM
) -> None:
    out = tmp_path / "align.bin"
    call("extract", run_folder, out, "--parts", "fusion", "--format", "published")
    names = torch.load(out, weights_only=True)
    assert names and all(n.startswith("base_model.model.model.vision_tower.align_stages") for n in names)
    fresh = PixDLMForCausalLM(adapted.config)
    assert load_parts(fresh, out) == {"fusion"}
    expected = adapted.fusion.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fresh.fusion.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parts", "fusion,hat"], "unknown part hat; known are clip,"),
        (["--parts", "fusion,lora", "--format", "published"], "--parts fusion alone"),
        ([], "name a target and --parts, or neither"),
        (["--parts", ","], "--parts is empty"),
    ],
)
def test_parts_that_cannot_be(
    call: Callable[..., None], tmp_path: Path, run_folder: Path, options: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        call("extract", run_folder, tmp_path / "x", *options)
    assert not (tmp_path / "x").exists()


def test_an_empty_folder_is_no_target_that_exists(tmp_path: Path) -> None:
    source = tmp_path / "best"
    for path in (source, tmp_path / "empty", tmp_path / "full"):
        path.mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "full/file").write_text("mine")
    for name in ("none", "empty", "link"):
        check_target(tmp_path / name, source, overwrite=False)
    for overwrite in (False, True):
        with pytest.raises(UserError, match="full: (exists already|is a folder without config.json)"):
            check_target(tmp_path / "full", source, overwrite)
