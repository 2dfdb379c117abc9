"""A training step as train.py takes it: by DeepSpeed where that is installed, else by PyTorch alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from model.lora import add_lora, lora_settings
from model.parts import PARTS, set_trainable
from model.pixdlm import PixDLMForCausalLM
from utils.benchmark.setup import Setup
from utils.cli.train_options import TrainArgs
from utils.datasets.loading.collate import Collator
from utils.runtime.errors import UserError
from utils.runtime.ports import free_port
from utils.runtime.precision import precision_of
from utils.training.engine import launcher_environment, parameter_groups, start_engine
from utils.training.setup import enable_gradient_checkpointing, loss_weights, parts_to_train

ENDLESS = 10**6  # steps of the schedule, whose end no measurement reaches


class TrainingStep(ABC):
    """Forward, backward and optimiser on one batch.

    Args:
        setup: its samples make the batch.
        model: is put into the state in which train.py trains it.
    """

    how: str  # in words

    def __init__(self, setup: Setup, model: PixDLMForCausalLM) -> None:
        self.setup, self.model, self.train = setup, model, setup.train
        self.trained = prepare(model, setup.train)
        collate = Collator(setup.config, setup.tokenizer, cut=True, mask_side=setup.train.mask_side)
        self.batch = collate(setup.samples[: setup.args.batch])
        self.samples = len(self.batch)
        self.weights = loss_weights(setup.train)
        self.runner: nn.Module = model
        self.loss: Tensor | None = None

    def forward(self) -> None:
        batch = self.batch.to(self.setup.device, self.setup.dtype)
        self.loss = self.runner(batch, self.weights).loss

    @abstractmethod
    def backward(self) -> None: ...

    @abstractmethod
    def update(self) -> None: ...


class TorchStep(TrainingStep):
    """By PyTorch alone; as ZeRO does, AdamW keeps float32 copies of weights in half precision."""

    def __init__(self, setup: Setup, model: PixDLMForCausalLM) -> None:
        super().__init__(setup, model)
        self.how = "PyTorch's AdamW, without DeepSpeed"
        groups = parameter_groups(model, self.train.weight_decay)
        self.parameters: list[nn.Parameter] = [one for group in groups for one in group["params"]]
        for group in groups:
            group["params"] = [one if one.dtype == torch.float32 else one.detach().float() for one in group["params"]]
        self.masters: list[Tensor] = [one for group in groups for one in group["params"]]
        betas = (self.train.beta1, self.train.beta2)
        self.optimizer = torch.optim.AdamW(groups, lr=self.train.lr, betas=betas, fused=True)

    def backward(self) -> None:
        self.loss.backward()

    def update(self) -> None:
        apart = [(one, master) for one, master in zip(self.parameters, self.masters, strict=True) if one is not master]
        for one, master in apart:
            master.grad = None if one.grad is None else one.grad.float()
            one.grad = None
        nn.utils.clip_grad_norm_(self.masters, self.train.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for one, master in apart:
                one.copy_(master)


class DeepSpeedStep(TrainingStep):
    """By the engine that train.py starts, on one process."""

    def __init__(self, setup: Setup, model: PixDLMForCausalLM) -> None:
        super().__init__(setup, model)
        launcher_environment(setup.device, free_port())
        precision = precision_of(setup.dtype)
        alone = replace(self.train, batch_size=self.samples, grad_accumulation=1, precision=precision)
        self.runner, _ = start_engine(model, alone, ENDLESS)
        self.how = f"DeepSpeed {version('deepspeed')}, ZeRO stage {self.train.zero_stage}, one process"

    def backward(self) -> None:
        self.runner.backward(self.loss)

    def update(self) -> None:
        self.runner.step()


def training_step(setup: Setup, model: PixDLMForCausalLM) -> TrainingStep:
    """A step by the engine that was asked for.

    Raises:
        UserError: DeepSpeed was asked for and is not installed.
    """
    installed = find_spec("deepspeed") is not None
    if setup.args.engine == "deepspeed" and not installed:
        raise UserError("--engine deepspeed: DeepSpeed is not installed; install it, or use --engine torch")
    return DeepSpeedStep(setup, model) if installed and setup.args.engine != "torch" else TorchStep(setup, model)


def prepare(model: PixDLMForCausalLM, train: TrainArgs) -> dict[str, int]:
    """Put a model without adapters into the state in which train.py trains it.

    Returns:
        trained parameters by part
    """
    if train.lora_rank:
        dtype = model.projector.weight.dtype
        adapters = lora_settings(train.lora_rank, train.lora_alpha, train.lora_dropout, train.lora_targets)
        add_lora(model.language_model, adapters)
        model.cast(dtype)
    model.train()
    trained = set_trainable(model, parts_to_train(model.config, set(PARTS) if train.from_scratch else set()))
    if train.gradient_checkpointing:
        enable_gradient_checkpointing(model)
    return trained
