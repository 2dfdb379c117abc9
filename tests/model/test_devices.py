"""What runs on a GPU, held on a pretended one: no operation on tensors of both sides, and hardly a wait of the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch import Tensor

from model import PixDLM
from model.config import FLAGS, PixDLMConfig
from model.inputs.batch import Batch
from model.language.decoding import Decoding
from model.language.tokens import EOS_ID, PixTokenizer
from model.lora import lora_settings
from model.losses import LossWeights
from model.parts import DEFAULT_TRAINED, set_trainable
from model.pixdlm import PixDLMForCausalLM, PixDLMOutput
from model.presets import native_config, release_config
from model.processor import PixDLMProcessor
from tests.pretend_gpu import MixedDevicesError, OnGPU, PretendedGPU
from utils.cli.train_options import TrainArgs
from utils.datasets.registry import load_dataset
from utils.evaluation.predict import Loading, predict
from utils.evaluation.predictions import Record
from utils.evaluation.protocols import GENERATE, OWN_REASONING, Protocol
from utils.runtime.distributed import any_rank
from utils.training.engine import ClippedAdamW, parameter_groups
from utils.training.loop import LOSSES, Run
from utils.training.setup import enable_gradient_checkpointing

Collate = Callable[..., Batch]

NAMED = {"native": native_config(), "release": release_config()}
SWITCHES = (*FLAGS, "pixel_input", "geometry", "clip_positions")
SETTINGS = [
    pytest.param((named, dtype, lora), id=f"{named}-{precision}{'-lora' * lora}")
    for named in NAMED
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    for lora in (False, True)
]


class Engine:
    """What the training loop asks of DeepSpeed, done by PyTorch; with an optimiser of ours or, as ZeRO has it, not."""

    def __init__(self, model: PixDLMForCausalLM, micro_steps: int, ours: bool) -> None:
        self.module, self.device, self.micro_steps, self.taken = model, model.device, micro_steps, 0
        groups, self.norm = parameter_groups(model, 0.1), None
        self.optimizer = (
            ClippedAdamW(groups, clip_norm=1.0, lr=1e-3, fused=True) if ours else torch.optim.AdamW(groups, lr=1e-3)
        )

    def __call__(self, batch: Batch, weights: LossWeights) -> PixDLMOutput:
        return self.module(batch, weights)

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self) -> None:
        self.taken += 1
        if self.taken % self.micro_steps:
            return
        if not isinstance(self.optimizer, ClippedAdamW):
            grads = [
                one.grad for group in self.optimizer.param_groups for one in group["params"] if one.grad is not None
            ]
            self.norm = torch.nn.utils.get_total_norm(grads)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def was_step_applied(self) -> bool:
        return not getattr(self.optimizer, "overflow", False)

    def get_global_grad_norm(self) -> Tensor | None:
        return self.norm


@pytest.fixture(params=SETTINGS)
def model(request: pytest.FixtureRequest, tiny_config: PixDLMConfig) -> PixDLMForCausalLM:
    """On the CPU; batches of `collate` fit it."""
    named, dtype, lora = request.param
    for switch in SWITCHES:
        setattr(tiny_config, switch, getattr(NAMED[named], switch))
    if lora:
        tiny_config.lora = lora_settings(2, 4.0, 0.1, ["q_proj", "v_proj"])
    torch.manual_seed(0)
    return PixDLMForCausalLM(tiny_config).eval().cast(dtype)


@pytest.fixture
def gpu() -> Iterator[PretendedGPU]:
    with PretendedGPU() as gpu:
        yield gpu


def alike(found: Tensor, expected: Tensor) -> bool:
    """Up to the rounding of attention's products, which are taken in another order."""
    return (found.float() - expected.float()).abs().mean() < 0.05 * expected.float().std()


# The model


@pytest.mark.slow
@pytest.mark.parametrize("ours", [True, False])
def test_a_training_step_waits_at_most_twice(
    model: PixDLMForCausalLM, collate: Collate, tokenizer: PixTokenizer, tmp_path: Path, gpu: PretendedGPU, ours: bool
) -> None:
    """For whether the losses of all micro-steps are finite, and for the gradients' norm."""
    set_trainable(model, set(DEFAULT_TRAINED), adapters=True)
    grounding = 0.1 if model.config.geometry == "letterbox" else 0.0
    args = TrainArgs(grad_accumulation=3, overlap_weight=0.1, grounding_weight=grounding)
    run = Run(args, Engine(model.train().to(gpu.device), 3, ours), None, tokenizer, tmp_path, 10, None)
    run.dtype, batches = model.dtype, repeat(collate(0, 3, 10))
    run.train_step(batches)
    before = [one.cpu() for one in model.parameters() if one.requires_grad]
    gpu.waits.clear()
    run.train_step(batches)
    waits = dict(gpu.waits)
    run.close()
    assert sum(waits.values()) <= 2, waits
    after = [one.cpu() for one in model.parameters() if one.requires_grad]
    moved = sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert run.progress.step == 2 and run.progress.bad_steps == 0 and moved > len(after) / 2
    losses = dict(zip(LOSSES, run.sums.tolist(), strict=True))
    assert all(losses[name] > 0 for name in LOSSES[:4]) and (losses["grounding_loss"] > 0) == bool(grounding)


@torch.no_grad()
def test_a_forward_pass_gives_the_masks_and_losses_of_the_cpu_without_a_wait(
    model: PixDLMForCausalLM, collate: Collate, gpu: PretendedGPU
) -> None:
    batch = collate(0, 3, 10)
    here = batch.to("cpu", model.dtype)
    expected, loss = model(here).mask_logits, model(here, LossWeights()).loss
    model.to(gpu.device)
    there = batch.to(gpu.device, model.dtype)
    gpu.waits.clear()
    found, found_loss = model(there).mask_logits, model(there, LossWeights()).loss
    assert not gpu.waits and all(isinstance(one, OnGPU) for one in found)
    assert all(alike(a.cpu(), b) for a, b in zip(found, expected, strict=True))
    assert found_loss.item() == pytest.approx(loss.item(), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [Protocol(), Protocol(GENERATE, OWN_REASONING, Decoding(max_new_tokens=3))])
def test_a_split_is_evaluated_from_its_files(
    model: PixDLMForCausalLM, tiny_drseg: Path, tokenizer: PixTokenizer, gpu: PretendedGPU, protocol: Protocol
) -> None:
    """A fresh model writes no [SEG] group, so that only forced answers have masks."""
    samples = load_dataset(tiny_drseg, "test")
    expected, found = [], []
    for device, records in (("cpu", expected), (gpu.device, found)):
        predict(model.to(device), tokenizer, samples, protocol, Loading(4, dtype=model.dtype), records.extend)
    assert len(found) == 11 and [one["id"] for one in found] == [one["id"] for one in expected]
    assert [len(one["masks"]) for one in found] == [len(one["masks"]) for one in expected]
    assert any(one["masks"] for one in found) == (protocol.kind != GENERATE)
    rounding = 0.02 if model.dtype == torch.float32 else 0.2
    assert [area(one) for one in found] == pytest.approx([area(one) for one in expected], rel=rounding)


def area(record: Record) -> int:
    """Pixels of a record's masks."""
    return sum(int(coco.area(mask)) for mask in record["masks"])


@pytest.mark.parametrize("answered", [True, False])
def test_layers_computed_again_and_batches_without_targets_are_not_waited_for(
    tiny_model: PixDLMForCausalLM, collate: Collate, gpu: PretendedGPU, answered: bool
) -> None:
    enable_gradient_checkpointing(tiny_model.train().to(gpu.device))
    batch = collate(0, 3, answered=answered)
    batch.masks = [masks if answered else masks[:0] for masks in batch.masks]
    batch = batch.to(gpu.device)
    gpu.waits.clear()
    loss = tiny_model(batch, LossWeights(overlap=0.1, grounding=0.1)).loss
    loss.backward()
    assert not gpu.waits and (loss.item() > 0) == answered
    assert tiny_model.projector.weight.grad.isfinite().all()


def test_answers_are_written_and_their_masks_read(
    model: PixDLMForCausalLM, tokenizer: PixTokenizer, monkeypatch: pytest.MonkeyPatch, gpu: PretendedGPU
) -> None:
    """By the model itself, and then from given answers, since a fresh model writes no [SEG] group."""
    model.language_model.lm_head.weight.data[EOS_ID] = 0.0
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    pixdlm = PixDLM(model.to(gpu.device), PixDLMProcessor(model.config, tokenizer))
    questions = ["Which car is red?", "Where is the bus, and which way does it go?"]
    features = pixdlm.encode(picture)
    assert features.tokens.device == gpu.device
    answers = pixdlm.segment(features, questions, max_new_tokens=3)
    assert [one.masks.shape[1:] for one in answers] == [(40, 60)] * 2
    seg = tokenizer.seg_ids
    monkeypatch.setattr(PixDLMForCausalLM, "generate_answers", lambda *_: [[*seg, *seg], seg])
    gpu.waits.clear()
    answers = pixdlm.segment(picture, questions)
    assert [one.masks.shape for one in answers] == [(2, 40, 60), (1, 40, 60)]
    asked = {place.partition(":")[0] for place, why in gpu.waits if why != "copy to the GPU"}
    handed_out = {"model/segmenter.py", "model/segmentation.py", "model/masks.py"}
    assert asked == handed_out, gpu.waits  # and not on the way there


def test_layers_get_positions_that_can_be_read_without_a_wait(
    tiny_model: PixDLMForCausalLM, collate: Collate, gpu: PretendedGPU
) -> None:
    """flash-attn's side of transformers looks at them in each, where there is one question."""
    seen: list[Tensor] = []
    layer = tiny_model.language_model.model.layers[1]
    layer.register_forward_pre_hook(lambda _, args, given: seen.append(given["position_ids"]), with_kwargs=True)
    with torch.no_grad():
        tiny_model.to(gpu.device)(collate(0).to(gpu.device))
    assert [one.device.type for one in seen] == ["cpu", "cpu"]  # the question's and the prompt's


def test_places_that_were_not_found_before_are_waited_for(tiny_model: PixDLMForCausalLM, collate: Collate) -> None:
    """The count counts: prompts that are replaced on the GPU have to be read there."""
    with PretendedGPU() as gpu, torch.no_grad():
        batch = collate(0, 3).to(gpu.device)
        expected = tiny_model.to(gpu.device)(batch).mask_logits
        gpu.waits = Counter({where: n for where, n in gpu.waits.items() if where[0].startswith("model")})
        assert not gpu.waits
        batch.input_ids = batch.input_ids.clone()
        found = tiny_model(batch).mask_logits
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(found, expected, strict=True))
        assert {"copy to the CPU"} == {why for place, why in gpu.waits if place.startswith("model")}


def test_flags_of_all_ranks_are_waited_for_once(gpu: PretendedGPU) -> None:
    bad = torch.full((), True, device=gpu.device)
    assert any_rank([~bad, False, True], gpu.device) == [False, False, True]
    assert sum(gpu.waits.values()) == 1


# The pretended GPU


def test_both_sides_do_not_mix(gpu: PretendedGPU) -> None:
    here, there = torch.ones(3), torch.ones(3, device=gpu.device)
    assert there.device == gpu.device and there.is_cuda and (there * torch.tensor(2.0)).tolist() == [2.0] * 3
    for mixed in (
        lambda: here + there,
        lambda: here[there.long()],
        lambda: there.index_select(0, here.long()),
        lambda: torch.cat([there, here]),
        lambda: there.add_(here),
        lambda: there.masked_fill(here > 0, 0.0),
    ):
        with pytest.raises(MixedDevicesError, match="on the CPU, at tests/model/test_devices.py"):
            mixed()
    with pytest.raises(RuntimeError, match="without waiting for it"):
        there.to("cpu", non_blocking=True)


WAITS = {
    "item": lambda x: x.sum().item(),
    "a truth": lambda x: bool((x > 0).all()),
    "a list": lambda x: x.tolist(),
    "an array": lambda x: x.cpu().numpy(),
    "nonzero": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "an assignment by a mask": lambda x: x.__setitem__(x > 0, x[0]),
    "an index on the CPU": lambda x: x[torch.tensor([0, 1])],
    "equal": lambda x: torch.equal(x, x),
    "unique": lambda x: x.unique(),
    "a number copied there": lambda x: torch.tensor(3.0, device=x.device),
    "a copy there": lambda x: torch.ones(3).to(x.device),
    "a backward pass": lambda x: Reading.apply(x.requires_grad_()).sum().backward(),
}
GOES_ON = {
    "a copy that goes on": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "an index": lambda x: x[x.long()],
    "a number": lambda x: x + 1,
    "a new tensor": lambda x: torch.full((2,), 3.0, device=x.device),
    "in place": lambda x: x.mul_(2).add_(x),
    "gradients": lambda x: (x.requires_grad_() * x).softmax(-1)[0].backward(),
}


class Reading(torch.autograd.Function):
    """Reads a number of its gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad * grad[0].item()


@pytest.mark.parametrize("name", WAITS)
def test_what_the_host_waits_for_is_counted_where_it_is_asked_for(gpu: PretendedGPU, name: str) -> None:
    x = torch.ones(3).to(gpu.device, non_blocking=True)
    WAITS[name](x)
    assert gpu.waits and all(place.startswith("tests/model/test_devices.py") for place, _ in gpu.waits)


@pytest.mark.parametrize("name", GOES_ON)
def test_what_goes_on_by_itself_is_not(gpu: PretendedGPU, name: str) -> None:
    GOES_ON[name](torch.ones(3).to(gpu.device, non_blocking=True))
    assert not gpu.waits


def test_gradients_are_those_of_the_cpu_and_nothing_is_left_behind() -> None:
    layer, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    layer(x).softmax(-1)[:, 0].sum().backward()
    expected = layer.weight.grad.clone()
    layer.zero_grad()
    with PretendedGPU() as gpu:
        layer.to(gpu.device)(x.to(gpu.device)).softmax(-1)[:, 0].sum().backward()
        torch.testing.assert_close(layer.weight.grad.cpu(), expected)
    assert torch.tensor(1).device.type == "cpu" and torch.cuda._lazy_init.__name__ == "_lazy_init"
    with pytest.raises(RuntimeError, match="after its end"):
        layer.weight + 1
