"""DeepSpeed: its configuration from the options, the engine, and gathering the weights from it."""

from __future__ import annotations

import logging
import math
import os
from types import ModuleType
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn

from utils.cli.train_options import TrainArgs
from utils.runtime.distributed import rank, world_size
from utils.runtime.errors import UserError
from utils.runtime.precision import precision_name

DECAYED_MODULES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
LEAST_DEEPSPEED = "0.19.8"  # earlier ones let NaN gradients into the weights, 0.19.0 and 0.19.1 round buffers


def engine_config(args: TrainArgs) -> dict[str, Any]:
    """DeepSpeed's configuration, from the options."""
    zero: dict[str, Any] = {"stage": args.zero_stage}
    if args.zero_stage:
        zero |= {"contiguous_gradients": True, "overlap_comm": torch.cuda.is_available(), "reduce_scatter": True}
    if args.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if args.offload == "all":
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": args.batch_size,
        "gradient_accumulation_steps": args.grad_accumulation,
        "gradient_clipping": 0.0 if uses_clipped_adamw(args) else args.clip_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,  # the training loop logs
        "bf16": {"enabled": args.precision == "bf16"},
        "fp16": {"enabled": args.precision == "fp16"},
    }
    if args.precision == "bf16" and args.zero_stage >= 2:
        # else gradients are accumulated in bfloat16, which loses small ones
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    if args.precision == "mixed":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return config


def inference_config(device: torch.device, dtype: torch.dtype, offload: bool) -> dict[str, Any]:
    """DeepSpeed's configuration for forward passes with sharded parameters (ZeRO-3)."""
    zero: dict[str, Any] = {"stage": 3, "memory_efficient_linear": False}  # DeepSpeed's own product rounds differently
    if offload:
        zero["offload_param"] = {"device": "cpu", "pin_memory": device.type == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # required, but used in training only
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "fp16": {"enabled": dtype == torch.float16},
    }


def start_inference(model: nn.Module, config: dict[str, Any]) -> Any:
    """The DeepSpeed engine that gathers a sharded model's parameters around each module's forward pass."""
    engine, *_ = import_deepspeed().initialize(model=model, config=config)
    return engine


def uses_clipped_adamw(args: TrainArgs) -> bool:
    """Whether the engine gets a `ClippedAdamW`: the one case in which DeepSpeed does not wrap the optimiser."""
    return args.zero_stage == 0 and args.precision in ("fp32", "mixed")


class ClippedAdamW(torch.optim.AdamW):
    """AdamW that clips gradients and skips steps with non-finite ones.

    DeepSpeed's optimisers do both, but it has none for ZeRO 0 with fp32 weights: it then clips tensor by tensor,
    a tenth of `mini`'s step time, and applies non-finite gradients. The engine reads `overflow`, which tells
    whether the last step was skipped.
    """

    def __init__(self, groups: list[dict[str, Any]], clip_norm: float, **options: Any) -> None:
        super().__init__(groups, **options)
        self.clip_norm, self.overflow = clip_norm, False

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update, or none where a gradient is not finite; the same on all ranks, whose gradients are equal."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters], foreach=True)
        self.overflow = not torch.isfinite(norm).item()
        if self.overflow:
            return
        if self.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm, foreach=True)
        super().step()


def import_deepspeed() -> ModuleType:
    """DeepSpeed, imported late since that probes the machine; made quiet, and kept from compiling.

    Raises:
        UserError: it is older than LEAST_DEEPSPEED.
    """
    import deepspeed

    if Version(deepspeed.__version__) < Version(LEAST_DEEPSPEED):
        raise UserError(
            f"DeepSpeed is {deepspeed.__version__}; earlier ones than {LEAST_DEEPSPEED} let gradients that are not "
            "finite into the weights: pip install -r requirements.txt"
        )
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # Its shared-memory backend for CPU processes is compiled at the first start: half a minute with a C++
    # compiler, a crash without one. gloo does instead.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def check_precision(dtype: torch.dtype) -> None:
    """Check the dtype before anything is loaded; DeepSpeed would check it afterwards.

    Raises:
        UserError: DeepSpeed does not support it on this machine.
    """
    from deepspeed.accelerator import get_accelerator

    known = {
        torch.float16: get_accelerator().is_fp16_supported(),
        torch.bfloat16: get_accelerator().is_bf16_supported(),
    }
    if not known.get(dtype, True):
        name = precision_name(dtype)
        raise UserError(f"--precision {name}: DeepSpeed cannot run in it on this machine; use fp32, or another machine")


def parameter_groups(model: nn.Module, weight_decay: float, by_name: bool = False) -> list[dict[str, Any]]:
    """AdamW's groups of trained parameters; only the weights of linear maps and convolutions are decayed.

    The type of the module decides, not a word in its name: embeddings, position tables, norms, biases and single
    numbers are left alone.

    Args:
        model: its parameters may be sharded.
        weight_decay: of the first group.
        by_name: the rule of earlier versions, for the states that they wrote: all matrices whose name lacks "embed".
    """
    matrices = {module.weight for module in model.modules() if isinstance(module, DECAYED_MODULES)}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 empties sharded parameters
        decayed = len(shape) >= 2 and "embed" not in name if by_name else parameter in matrices
        if parameter.requires_grad:
            groups[decayed].append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if decayed else 0.0}
        for decayed, parameters in groups.items()
        if parameters
    ]


def start_engine(model: nn.Module, args: TrainArgs, total_steps: int, decay_by_name: bool = False) -> tuple[Any, Any]:
    """The DeepSpeed engine around a model that has the run's precision and device, and its learning-rate schedule.

    The schedule is linear warm-up and then a linear decay to zero at `total_steps`; `decay_by_name` as in
    `parameter_groups`.
    """
    deepspeed = import_deepspeed()
    groups = parameter_groups(model, args.weight_decay, decay_by_name)
    settings = {"lr": args.lr, "betas": (args.beta1, args.beta2), "fused": True}
    optimizer: torch.optim.AdamW
    if uses_clipped_adamw(args):
        optimizer = ClippedAdamW(groups, args.clip_norm, **settings)
    else:
        optimizer = torch.optim.AdamW(groups, **settings)

    def scale(step: int) -> float:
        if step < args.warmup_steps:
            return (step + 1) / args.warmup_steps
        return max(0.0, (total_steps - step) / max(1, total_steps - args.warmup_steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, scale)
    buffers = {name: buffer.dtype for name, buffer in model.named_buffers()}
    engine, _, _, schedule = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=schedule,
        config=engine_config(args),
    )
    check_buffers(model, buffers)
    if world_size() == 1 and args.zero_stage == 0:
        # A single process has nothing to reduce, but would copy all gradients: a tenth of `mini`'s step time.
        # (DeepSpeed would also fill missing gradients with zeros, so that unused parameters decay.)
        engine.enable_backward_allreduce = False
    return engine, schedule


def gradient_norm_is_finite(engine: Any) -> bool:
    """Whether the norm of the last step's gradients, over all ranks, is finite; True where DeepSpeed does not tell it.

    DeepSpeed skips such steps since 0.19.8; earlier ones applied them in some combinations of stage and precision.
    """
    norm = engine.get_global_grad_norm()
    return norm is None or 0 <= float(norm) < math.inf  # -1 stands for no number in some stages


def weights_are_finite(model: nn.Module) -> Tensor:
    """bool[], whether every trained weight that this rank holds is finite."""
    held = [held_by_this_rank(one) for one in model.parameters() if one.requires_grad]
    return torch.stack([torch.isfinite(one).all() for one in held]).all()


def held_by_this_rank(parameter: Tensor) -> Tensor:
    """The parameter, or this rank's shard of it under ZeRO-3, without the padding of the last one, which is not set."""
    shard = getattr(parameter, "ds_tensor", None)
    if shard is None:
        return parameter
    begin = rank() * shard.numel()
    return shard.flatten()[: max(0, parameter.ds_numel - begin)]


def check_buffers(model: nn.Module, before: dict[str, torch.dtype]) -> None:
    """DeepSpeed 0.19.0 and 0.19.1 round buffers to bf16: rotary phases are off by half a radian at position 400.

    Raises:
        UserError: naming the first buffer whose type has changed.
    """
    for name, buffer in model.named_buffers():
        if buffer.dtype != before[name]:
            raise UserError(
                f"DeepSpeed made {buffer.dtype} of the buffer {name}, which was {before[name]}, so that positions are "
                "rounded; install the DeepSpeed that requirements.txt asks for"
            )


def release_prefetched(engine: Any) -> None:
    """Let ZeRO-3 finish and give up what it gathers ahead of its use.

    It prefetches in the order of the last training step. A validation never uses lm_head, whose prefetch is then
    still in flight when the weights are to be gathered or the next step begins ("Cannot partition a param in
    flight").
    """
    if engine.zero_optimization_partition_weights():
        engine.empty_partition_cache()


def gathered_state(engine: Any) -> dict[str, Tensor] | None:
    """The model's tensors on the CPU, on rank 0; None elsewhere. With ZeRO-3 they are gathered one at a time."""
    import deepspeed

    writes = engine.global_rank == 0
    release_prefetched(engine)
    state: dict[str, Tensor] = {}
    parameters = dict(engine.module.named_parameters())
    for name, tensor in engine.module.state_dict(keep_vars=True).items():
        sharded = [parameters[name]] if name in parameters and engine.zero_optimization_partition_weights() else []
        with deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded)):
            if writes:
                state[name] = tensor.detach().to("cpu", copy=True)
    if engine.zero_optimization_partition_weights():
        engine.optimizer.checkpoint_event_epilogue()  # gathers the small parameters again that ZeRO-3 keeps whole
    return state if writes else None


def launcher_environment(device: torch.device, port: int) -> None:
    """Set the environment variables that DeepSpeed expects of a launcher, where there was none."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # or it would take a GPU that it finds
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", str(port))
