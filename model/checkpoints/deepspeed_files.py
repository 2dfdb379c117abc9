"""DeepSpeed's checkpoint folders: ZeRO's shards, consolidated by DeepSpeed under restricted unpickling."""

from __future__ import annotations

import contextlib
import glob
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from model.checkpoints.tensors import TensorFile, read_errors_as_user_error
from utils.runtime.errors import UserError, first_line
from utils.runtime.paths import entries, is_file, is_folder

log = logging.getLogger(__name__)

LATEST = "latest"
PLAIN_LINK = "pixdlm-link-"  # begins the name of the folder of a link to a step
MODEL_STATES = "_model_states.pt"  # what their names end in
OPTIM_STATES = "_optim_states.pt"


def is_zero_folder(folder: Path) -> bool:
    """Whether `folder` is what DeepSpeed saves: `latest` and a folder of that name, or that folder itself."""
    return is_file(folder / LATEST) or bool(ending_in(folder, MODEL_STATES))


def ending_in(folder: Path, ending: str) -> list[Path]:
    """The files of a folder whose names end so, by name.

    Raises:
        UserError: this user may not list it.
    """
    return [path for path in entries(folder) if path.name.endswith(ending)]


def step_folder(folder: Path) -> Path:
    """The folder that holds the ranks' files.

    Raises:
        UserError: the step that `latest` names is not there.
    """
    if not is_file(folder / LATEST):
        return folder
    step = folder / (folder / LATEST).read_text().strip()
    if step.parent != folder or not is_folder(step):
        raise UserError(f"{folder / LATEST}: names {step.name!r}, which is not in {folder}; it is unfinished")
    return step


def zero_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a checkpoint unsharded, trained ones in float32; each is freed when the next is requested.

    Raises:
        UserError: a rank's file is missing or truncated, or its pickle names a class that DeepSpeed never saves.
    """
    step = step_folder(folder)
    first = model_file(step)
    # Shapes of the sharded parameters, the same in every rank's file; None with ZeRO 0.
    if first["param_shapes"] is None:
        yield from first["module"].items()
        return
    if not ending_in(step, OPTIM_STATES):
        raise UserError(f"{step}: no *{OPTIM_STATES} in it; the checkpoint is unfinished, use an earlier one")
    frozen = first["module"]
    state = consolidated_state(step)
    for name in list(state):
        yield name, state.pop(name).contiguous()
        frozen.pop(name, None)
    # ZeRO 1 saves frozen tensors in the module only.
    yield from ((name, tensor) for name, tensor in frozen.items() if tensor.numel())


def zero_shapes(folder: Path) -> dict[str, torch.Size]:
    """Names and shapes of all tensors, unsharded; no tensor is read."""
    states = model_file(step_folder(folder))
    shapes = {name: tensor.shape for name, tensor in states["module"].items()}
    for group in [*(states["param_shapes"] or []), states.get("frozen_param_shapes") or {}]:
        shapes |= group
    return shapes


def model_file(step: Path) -> dict[str, Any]:
    """The content of the first rank's model file, its tensors memory-mapped.

    Raises:
        UserError: there is none, or DeepSpeed did not write it.
    """
    files = ending_in(step, MODEL_STATES)
    if not files:
        raise UserError(f"{step}: no *{MODEL_STATES} in it; the checkpoint is unfinished, use an earlier one")
    states = dict(TensorFile(files[0]))
    absent = {"module", "param_shapes"} - states.keys()
    if absent:
        raise UserError(f"{files[0]}: no {', '.join(sorted(absent))} in it, so DeepSpeed did not write it")
    return states


def consolidated_state(step: Path) -> dict[str, Tensor]:
    """Every sharded tensor in full, float32, gathered by DeepSpeed's zero_to_fp32 under `safe_unpickling`.

    Raises:
        UserError: a file is missing or truncated, or its pickle names another class.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    printed = io.StringIO()
    try:
        with safe_unpickling(), plain_path(step) as (folder, tag), contextlib.redirect_stdout(printed):
            return get_fp32_state_dict_from_zero_checkpoint(folder, tag=tag, lazy_mode=True)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged checkpoint makes DeepSpeed raise
        raise UserError(f"{step}: unfinished or damaged ({first_line(error)}); use an earlier one") from error
    finally:
        log.debug("%s", printed.getvalue())


@contextlib.contextmanager
def plain_path(step: Path) -> Iterator[tuple[str, str]]:
    """A step's folder and name in it as DeepSpeed finds them: it reads `[`, `*` and `?` in them as patterns.

    Where there are any, a temporary link of a plain name leads there.
    """
    if glob.escape(str(step)) == str(step):
        yield str(step.parent), step.name
        return
    with tempfile.TemporaryDirectory(prefix=PLAIN_LINK) as folder:
        os.symlink(step.resolve(), Path(folder) / "step")
        yield folder, "step"


@contextlib.contextmanager
def safe_unpickling(mmap: bool = True) -> Iterator[None]:
    """Inside it DeepSpeed reads tensors and its own settings alone; it would unpickle anything.

    Args:
        mmap: leave tensors in their files until they are used; not for files that are removed meanwhile.

    Raises:
        UserError: a file is truncated, or its pickle names another class.
    """
    from deepspeed.runtime.fp16 import loss_scaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [ZeroStageEnum, fragment_address, loss_scaler.LossScaler, loss_scaler.DynamicLossScaler]
    plain_load = torch.load

    def safe_load(file: str, **options: Any) -> Any:
        named = os.path.realpath(file) if PLAIN_LINK in file else file
        with read_errors_as_user_error(Path(named)):  # mapped, or model files would be read into memory as a whole
            return plain_load(file, **{**options, "weights_only": True, "mmap": mmap})

    with torch.serialization.safe_globals(known), mock.patch.object(torch, "load", safe_load):
        yield
