"""The setup of a measurement: configuration, random weights, tokenizer, pictures; the same in every run."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.inputs.images import write_image
from model.language.tokens import TOKENIZER_FILE, PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from model.presets import named_config
from utils.cli.benchmark_options import BenchmarkArgs
from utils.cli.train_options import TrainArgs, parse_train
from utils.datasets.base import Sample
from utils.datasets.loading.collate import Collator
from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError
from utils.runtime.files import CHECKOUT
from utils.runtime.paths import is_file

MINI_TOKENIZER = CHECKOUT / "PixDLM" / "mini"
WIDTH, HEIGHT = 1920, 1080  # DRSeg's
NOISE = 8  # side of a patch of noise in pixels; JPEG files are then about as large as a photograph's
QUESTIONS = (
    "Which vehicle is parked closest to the building entrance?",
    "What would take a school class to town, and where does it stand?",
    "Identify the object that could block the emergency lane.",
)


@dataclass
class Setup:
    """Everything but the model, which is built on first use; `train` holds train.py's defaults for `config`."""

    args: BenchmarkArgs
    train: TrainArgs
    config: PixDLMConfig
    tokenizer: PixTokenizer
    samples: list[Sample]
    device: torch.device
    dtype: torch.dtype

    @cached_property
    def model(self) -> PixDLMForCausalLM:
        """The model of random weights, on its device."""
        model = random_model(self.config, self.dtype, self.device)
        model.use_flash_attention()
        return model

    def collator(self, training: bool = False, answered: bool = True) -> Collator:
        """The collator of evaluation or training, with or without answers in the prompts."""
        mask_side = self.train.mask_side if training else None
        return Collator(self.config, self.tokenizer, answered=answered, truncate=training, mask_side=mask_side)

    def batch(self, size: int, **options: bool) -> Batch:
        """The first `size` samples on the CPU; options are `collator`'s."""
        return self.collator(**options)(self.samples[:size])


def set_up(args: BenchmarkArgs, device: torch.device, dtype: torch.dtype, folder: Path) -> Setup:
    """Prepare a measurement; `folder` takes generated pictures.

    Raises:
        UserError: a file that an option names does not exist.
    """
    installed = find_spec("deepspeed") is not None
    if args.engine == "deepspeed" and not installed:
        raise UserError("--engine deepspeed: DeepSpeed is not installed; install it, or use --engine torch")
    if args.engine == "auto":
        args = replace(args, engine="deepspeed" if installed else "torch")
    config, train = named_config(args.config), train_args(args.config)
    tokenizer = find_tokenizer(args, config, train)
    if train.from_scratch:  # as train.py, which fits the vocabulary to the tokenizer
        config.text_config.vocab_size = len(tokenizer)
    return Setup(args, train, config, tokenizer, find_samples(args, folder), device, dtype)


def train_args(name: str) -> TrainArgs:
    """train.py's default options for a configuration; golden's are those of `release`."""
    return parse_train(["--config", "release" if name == "golden" else name])


def find_tokenizer(args: BenchmarkArgs, config: PixDLMConfig, train: TrainArgs) -> PixTokenizer:
    """The tokenizer of --tokenizer, else the configuration's if it exists, else mini's.

    Mini's has fewer pieces than Llama's, so prompts are longer; its ids are valid in the larger vocabulary,
    whose last ids are always the added tokens.
    """
    own = Path(train.tokenizer)
    file = args.tokenizer or (own if is_file(own / TOKENIZER_FILE) else MINI_TOKENIZER)
    return PixTokenizer(file, config.system_prompt, None if train.from_scratch else config.text_config.vocab_size)


def find_samples(args: BenchmarkArgs, folder: Path) -> list[Sample]:
    """The samples of --data in random order, or a generated batch.

    Raises:
        UserError: --data has fewer than a batch.
    """
    if not args.data:
        write_frames(folder, args.batch)
        return load_dataset(folder, "test")
    samples = load_dataset(Path(args.data), args.split)
    if len(samples) < args.batch:
        raise UserError(f"--batch is {args.batch}, but {args.data} has {len(samples)} records in {args.split}")
    random.Random(0).shuffle(samples)
    return samples


def write_frames(folder: Path, count: int) -> None:
    """A test split in DRSeg's layout, the same every time: `count` frames of noise with a question and a target each.

    Targets cover up to 2 % of the frame, as most of DRSeg's do.
    """
    rng, records = np.random.default_rng(0), []
    pictures, labels = folder / "CODrone" / "DRtest", folder / "labels"
    pictures.mkdir(parents=True)
    labels.mkdir(parents=True)
    for number in range(count):
        noise = rng.integers(0, 256, (HEIGHT // NOISE, WIDTH // NOISE, 3), np.uint8)
        write_image(pictures / f"{number}.jpg", cv2.resize(noise, (WIDTH, HEIGHT)))
        left, top, side = rng.integers((0, 0, 20), (WIDTH - 200, HEIGHT - 200, 200)).tolist()
        corners = [left, top, left + side, top, left + side, top + side, left, top + side]
        record = {"id": str(number), "height": HEIGHT, "width": WIDTH, "ann_list": [{"segmentation": corners}]}
        asked = {"questions": [QUESTIONS[number % len(QUESTIONS)]], "answers": [None], "reasoning_types": ["scene"]}
        records.append({**record, **asked})
    (labels / "DRSeg_test.json").write_text(json.dumps(records))


def random_model(config: PixDLMConfig, dtype: torch.dtype, device: torch.device) -> PixDLMForCausalLM:
    """A model of random weights in evaluation mode, allocated on its device in its dtype, without another copy.

    Matrices have variance 1/fan_in, norm weights are 1, biases 0.
    """
    with init_empty_weights(include_buffers=False):
        model = PixDLMForCausalLM(config)
    for name, parameter in list(model.named_parameters()):
        weights, inputs = torch.empty(parameter.shape, dtype=dtype, device=device), parameter.shape[1:].numel()
        weights.normal_(std=inputs**-0.5) if parameter.ndim > 1 else weights.fill_(name.endswith("weight"))
        set_module_tensor_to_device(model, name, device, value=weights, dtype=dtype)
    return model.to(device).eval()
