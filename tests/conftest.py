"""Shared fixtures: small DRSeg folders, a small tokenizer and a small model, all made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image

from model.checkpoints.save import save_model
from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from model.presets import mini_config
from tests.training import TINY, Server
from utils.datasets.loading.collate import Collator
from utils.datasets.registry import load_dataset
from utils.mini_drseg.generate import REASONING_TYPES, generate

SENTENCES = (
    "Which vehicle is parked closest to the building entrance?",
    "Identify the red car beside the crossing of the two roads.",
    "Show the tree farthest from the building.",
    "Which of the people on the road could block the emergency lane?",
    "USER: the question about the drone picture ASSISTANT: the answer",
)
# Llama's vocabulary in small: BPE, <unk> <s> </s> first, a leading blank, bytes for what it does not know.
LLAMA_LIKE = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The scripts' tests, which stand at the top and take the longest, go first: the last file to run, which one
    of two processes runs alone, is then a short one."""
    items.sort(key=lambda item: len(item.path.parts))


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of 320 pieces in the manner of Llama's."""
    prefix = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(prefix), vocab_size=320, minloglevel=2, **LLAMA_LIKE
    )
    return prefix.with_suffix(".model")


@pytest.fixture(scope="session")
def tokenizer(tokenizer_file: Path) -> PixTokenizer:
    """It, with the added tokens (335 in all) and a short system sentence."""
    return PixTokenizer(tokenizer_file, system="Drone pictures.")


@pytest.fixture
def make_record() -> Callable[..., dict[str, Any]]:
    """Makes a record as DRSeg publishes them; keywords replace its fields."""

    def make(name: str = "a", **fields: Any) -> dict[str, Any]:
        record = {
            "id": name,
            "height": 60,
            "width": 80,
            "ann_list": [{"segmentation": [[10, 10, 30, 10, 30, 20, 10, 20]]}],
            "questions": ["Which car is red?"],
            "answers": ["<think>One is.</think><answer>That one.</answer>"],
            "reasoning_types": ["attribute"],
        }
        return {**record, **fields}

    return make


@pytest.fixture
def make_drseg(tmp_path: Path, make_record: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """Writes a split in DRSeg's layout and gives the data folder.

    `sizes` names pictures (height, width) that differ from their labels' frame; None leaves one out.
    """

    def make(
        records: list[Any] | None = None, split: str = "test", sizes: dict[str, tuple[int, int] | None] | None = None
    ) -> Path:
        records = [make_record()] if records is None else records
        root = tmp_path / "DRSeg"
        (root / "labels").mkdir(parents=True, exist_ok=True)
        (root / "CODrone" / f"DR{split}").mkdir(parents=True, exist_ok=True)
        (root / "labels" / f"DRSeg_{split}.json").write_text(json.dumps(records))
        for number, record in enumerate(records):
            if not isinstance(record, dict) or not {"id", "height", "width"} <= set(record):
                continue
            size = (sizes or {}).get(record["id"], (record["height"], record["width"]))
            if size is not None:
                noise = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(noise).save(root / "CODrone" / f"DR{split}" / f"{record['id']}.jpg")
        return root

    return make


@pytest.fixture
def tiny_drseg(make_drseg: Callable[..., Path], make_record: Callable[..., dict[str, Any]]) -> Path:
    """A folder whose splits have everything at once: eleven questions about four pictures.

    `wide` is asked three things, `parted` is one target of two polygons, `two` has two targets and two
    records, `tall` a picture of twice its labels' frame.
    """
    types = ["spatial", "attribute", "scene"]
    square, second = [10, 10, 30, 10, 30, 20, 10, 20], [40, 25, 60, 25, 60, 45, 40, 45]

    def asked(count: int) -> dict[str, Any]:
        return {"answers": ["<answer>It.</answer>"] * count, "reasoning_types": types[:count]}

    records = [
        make_record("wide", questions=["Which car?", "Where is it?", "What is it?"], **asked(3), altitude=30),
        make_record("parted", ann_list=[{"segmentation": [square, second]}], questions=["Which truck is hidden?"]),
        make_record("two", ann_list=[{"segmentation": [square]}, {"segmentation": second}], **asked(1), altitude=100),
        make_record("two", ann_list=[{"segmentation": second}], questions=["Which bus?", "Which van?"], **asked(2)),
        make_record("tall", height=90, width=60, questions=["Which tree?"], altitude=60),
        make_record("tall", height=90, width=60, questions=["Where?", "Who?", "Why?"], **asked(3)),
    ]
    for split in ("train", "val", "test"):
        root = make_drseg(records, split, {"tall": (180, 120)})
    return root


@pytest.fixture(scope="session")
def fresh_model(tokenizer_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of `mini` with fresh weights; with this seed its masks cover about half of a frame."""
    tokenizer = PixTokenizer(tokenizer_file, system="")
    torch.manual_seed(1)
    fresh = PixDLMForCausalLM(mini_config(tokenizer.pieces.vocab_size()))
    folder = tmp_path_factory.mktemp("model") / "best"
    save_model(folder, fresh, tokenizer, fresh.state_dict(), {})
    return folder


@pytest.fixture
def seven_pictures(make_drseg: Callable[..., Path], make_record: Callable[..., dict[str, Any]]) -> Path:
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


@pytest.fixture
def tiny_config(tokenizer: PixTokenizer) -> PixDLMConfig:
    """Everything `native` in 0.2 M parameters; 64 pixels a side."""
    text = {**TINY["text_config"], "vocab_size": len(tokenizer), "hidden_size": 32}
    rest = {"system_prompt": tokenizer.system, "max_sequence": 160}
    return PixDLMConfig(**{**TINY, "text_config": text, **rest})


@pytest.fixture
def tiny_model(tiny_config: PixDLMConfig) -> PixDLMForCausalLM:
    """A fresh model of it, in evaluation mode; the same weights every time."""
    torch.manual_seed(0)
    return PixDLMForCausalLM(tiny_config).eval()


@pytest.fixture
def collate(tiny_drseg: Path, tiny_config: PixDLMConfig, tokenizer: PixTokenizer) -> Callable[..., Batch]:
    """A batch of the questions with these numbers, or of all eleven."""
    samples = load_dataset(tiny_drseg, "test")

    def make(*numbers: int, answered: bool = True) -> Batch:
        collator = Collator(tiny_config, tokenizer, answered=answered)
        return collator([samples[number] for number in numbers or range(len(samples))])

    return make


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.process.stdin.close()
    running.process.wait(timeout=60)
    running.process.stdout.close()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve records for training, six for validation."""
    out = tmp_path_factory.mktemp("data") / "mini"
    generate(out, {"train": 12, "val": 6, "test": 3}, workers=1, kinds=REASONING_TYPES)
    return out
