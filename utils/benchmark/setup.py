"""What is measured: configuration, random weights, tokenizer, pictures, all from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor

from model.config import PixDLMConfig
from model.inputs.batch import Batch
from model.language.tokens import TOKENIZER_FILE, PixTokenizer
from model.pixdlm import PixDLMForCausalLM
from model.presets import named_config
from utils.benchmark.frames import write_frames
from utils.cli.benchmark_options import BenchmarkArgs
from utils.cli.train_options import TrainArgs, parse_train
from utils.datasets import load_dataset
from utils.datasets.base import Sample
from utils.datasets.loading.collate import Collator
from utils.runtime.files import CHECKOUT

GOLDEN = "golden"
GOLDEN_PICTURES = CHECKOUT / "tests" / "golden" / "DRSeg"
MINI_TOKENIZER = CHECKOUT / "PixDLM" / "mini"
BLOCK = 1 << 20  # random numbers that larger tensors repeat


@dataclass
class Setup:
    """What there is to measure before a model is built.

    Args:
        args: of the benchmark.
        train: what train.py does by default with this configuration.
        config: the architecture.
        tokenizer: with as many tokens as it.
        samples: at least a batch of them.
        source: where they come from, in words.
        device: of the model.
        dtype: of weights and pixels.
    """

    args: BenchmarkArgs
    train: TrainArgs
    config: PixDLMConfig
    tokenizer: PixTokenizer
    samples: list[Sample]
    source: str
    device: torch.device
    dtype: torch.dtype

    def batch(self, size: int, answered: bool = True) -> Batch:
        """The first `size` samples on the CPU, as evaluation collates them."""
        return Collator(self.config, self.tokenizer, answered=answered)(self.samples[:size])


def set_up(args: BenchmarkArgs, device: torch.device, dtype: torch.dtype, folder: Path) -> Setup:
    """Everything but the model; `folder` takes pictures that are made."""
    config, train = named_config(args.config), train_args(args.config)
    tokenizer = find_tokenizer(args, config, train)
    if train.from_scratch:  # as train.py, which fits the vocabulary to the tokenizer
        config.text_config.vocab_size = len(tokenizer)
    samples, source = find_samples(args, folder)
    return Setup(args, train, config, tokenizer, samples, source, device, dtype)


# -- configurations ----------------------------------------------------------------------------


def train_args(name: str) -> TrainArgs:
    """What train.py does by default with a configuration; golden's is trained as `release`, whose dimensions differ."""
    return parse_train(["--config", "release" if name == GOLDEN else name])


# -- tokenizer and pictures --------------------------------------------------------------------
def find_tokenizer(args: BenchmarkArgs, config: PixDLMConfig, train: TrainArgs) -> PixTokenizer:
    """The one that was named, the configuration's own where it is, or mini's.

    Mini's has fewer pieces than Llama's, so prompts are longer; its ids are valid in the larger vocabulary,
    of which the added tokens take the last ids whatever the tokenizer.
    """
    own = Path(train.tokenizer)
    file = args.tokenizer or (own if (own / TOKENIZER_FILE).is_file() else MINI_TOKENIZER)
    return PixTokenizer(file, config.system_prompt, None if train.from_scratch else config.text_config.vocab_size)


def find_samples(args: BenchmarkArgs, folder: Path) -> tuple[list[Sample], str]:
    """At least a batch of samples, and where they come from.

    Where the data have fewer, their pictures are linked under further names, so that no picture is encoded
    once for several samples that would be different ones in a run.
    """
    if args.data or args.config == GOLDEN:
        root = Path(args.data or GOLDEN_PICTURES)
        samples = load_dataset(root, args.split)
        random.Random(args.seed).shuffle(samples)
        return list(repeated(samples, args.batch, folder)), f"{root}, split {args.split}"
    write_frames(folder / "frames", args.batch, args.seed)
    return load_dataset(folder / "frames", "test"), "frames made of noise, with the seed"


def repeated(samples: list[Sample], count: int, folder: Path) -> Iterator[Sample]:
    """The samples, and copies with pictures of their own until there are `count`."""
    yield from samples
    for i in range(len(samples), count):
        original = samples[i % len(samples)]
        link = folder / f"copy_{i}{original.image_path.suffix}"
        link.symlink_to(original.image_path.resolve())
        yield replace(original, image_path=link, index=i)


# -- the model ---------------------------------------------------------------------------------
def random_model(config: PixDLMConfig, dtype: torch.dtype, device: torch.device, seed: int) -> PixDLMForCausalLM:
    """A model of random weights in evaluation mode, made on its device and in its type, without a copy in another."""
    with init_empty_weights(include_buffers=False):
        model = PixDLMForCausalLM(config)
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in list(model.named_parameters()):
        value = random_weights(name, parameter.shape, dtype, generator)
        set_module_tensor_to_device(model, name, device, value=value, dtype=dtype)
    return model.to(device).eval()


def random_weights(name: str, shape: torch.Size, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Matrices that keep variance, norms that do nothing, no biases.

    Drawing 7 billion numbers takes minutes, so that large tensors repeat a block of them.
    """
    if len(shape) < 2:
        return torch.full(shape, float("weight" in name.rpartition(".")[2]), dtype=dtype, device=generator.device)
    count, inputs = shape.numel(), shape[1:].numel()
    block = torch.randn(min(count, BLOCK), generator=generator, device=generator.device).mul_(inputs**-0.5).to(dtype)
    if count <= BLOCK:
        return block.view(shape)
    values = torch.empty(count, dtype=dtype, device=generator.device)
    for piece in values.split(BLOCK):
        piece.copy_(block[: len(piece)])
    return values.view(shape)
