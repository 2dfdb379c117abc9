"""DeepSpeed's checkpoint folders: ZeRO's shards put together by DeepSpeed, after a look at what they would unpickle."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from model.weights import TensorFile, told_of
from utils.errors import UserError

log = logging.getLogger(__name__)

LATEST = "latest"
MODEL_STATES = "*_model_states.pt"
OPTIM_STATES = "*_optim_states.pt"
# What DeepSpeed keeps beside tensors in a rank's file. DeepSpeed unpickles these files freely, so no
# other name may be in them.
KNOWN_GLOBALS = {
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
}


def is_zero_folder(folder: Path) -> bool:
    """Whether `folder` is what DeepSpeed saves: `latest` and a folder of that name, or that folder itself."""
    return (folder / LATEST).is_file() or any(folder.glob(MODEL_STATES))


def step_folder(folder: Path) -> Path:
    """Where the ranks' files are.

    Raises:
        UserError: the step that `latest` names is not there.
    """
    if not (folder / LATEST).is_file():
        return folder
    step = folder / (folder / LATEST).read_text().strip()
    if step.parent != folder or not step.is_dir():
        raise UserError(f"{folder / LATEST}: names {step.name!r}, which is not in {folder}; it is unfinished")
    return step


def zero_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint in full, trained ones in float32; each is let go once the next is asked for.

    Raises:
        UserError: a rank's file is missing or cut, or asks to unpickle what DeepSpeed never saves.
    """
    step = step_folder(folder)
    models, optimizers = sorted(step.glob(MODEL_STATES)), sorted(step.glob(OPTIM_STATES))
    if not models:
        raise UserError(f"{step}: no {MODEL_STATES} in it; the checkpoint is unfinished, use an earlier one")
    for file in models + optimizers:
        check_pickle(file)
    if optimizers:
        state = _merged(step)
        for name in list(state):
            tensor = state.pop(name).contiguous()
            yield name, tensor
        return
    # ZeRO 0 keeps the whole module in one file and has no shards
    module = TensorFile(models[0])["module"]
    yield from module.items()


def check_pickle(file: Path) -> None:
    """Raises UserError where a file is cut, or unpickling it would call what DeepSpeed never saves."""
    with told_of(file):
        try:
            asked = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        except (zipfile.BadZipFile, pickle.UnpicklingError) as error:
            raise RuntimeError(str(error)) from error
    unknown = sorted(set(asked) - KNOWN_GLOBALS)
    if unknown:
        raise UserError(f"{file}: not read, for it wants to run code (it asks for {', '.join(unknown)})")


def _merged(step: Path) -> dict[str, Tensor]:
    """DeepSpeed's own merging; what it prints goes to the log."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            return get_fp32_state_dict_from_zero_checkpoint(str(step.parent), tag=step.name, lazy_mode=True)
    except (ValueError, KeyError, FileNotFoundError, RuntimeError, AssertionError) as error:
        raise UserError(f"{step}: unfinished or damaged ({str(error).splitlines()[0]}); use an earlier one") from error
    finally:
        log.debug("%s", said.getvalue())
