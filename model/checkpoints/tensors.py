"""Weight files of every format, read lazily and checked strictly.

Nothing is unpickled beyond tensors: files are safetensors or read with `weights_only=True`.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import set_module_tensor_to_device
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from utils.runtime.errors import UserError, first_line, permission_denied
from utils.runtime.files import check_utf8_path
from utils.runtime.json_files import read_json
from utils.runtime.paths import is_file

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # or shards, with `.index.json` after the name


class TensorFile(Mapping[str, Tensor]):
    """The tensors of one weight file, read lazily.

    The file is memory-mapped; pages that were read count as this process's memory until `reopen`.

    Raises:
        UserError: the file is missing, truncated, not readable, under a name that is not UTF-8, or a pickle of more
            than tensors.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not is_file(self.path):
            raise UserError(f"{path}: no such weight file; `python -m utils.download` fetches the published ones")
        check_utf8_path(path)
        self.reopen()

    def reopen(self) -> None:
        """Open the file again, which releases the pages that were read."""
        self.state = None
        with read_errors_as_user_error(self.path):
            if self.path.suffix == ".safetensors":
                self.state = safe_open(self.path, framework="pt")
                self.names = list(self.state.keys())
                return
            self.state = torch.load(self.path, map_location="cpu", weights_only=True, mmap=_is_zip(self.path))
        if not isinstance(self.state, dict):
            raise UserError(f"{self.path}: holds a {type(self.state).__name__}, not a dictionary of tensors")
        self.names = list(self.state)

    def __getitem__(self, name: str) -> Tensor:
        if isinstance(self.state, dict):
            return self.state[name]
        with read_errors_as_user_error(self.path):
            return self.state.get_tensor(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, which is not read; () for an entry that is no tensor."""
        if isinstance(self.state, dict):
            return tuple(getattr(self.state[name], "shape", ()))
        return tuple(self.state.get_slice(name).get_shape())

    def metadata(self) -> dict[str, str]:
        """Metadata of a safetensors file; {} for other formats."""
        return {} if isinstance(self.state, dict) else self.state.metadata() or {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@torch.no_grad()
def fill_tensor(module: nn.Module, name: str, own: Tensor, values: Tensor, dtype: torch.dtype) -> None:
    """Give a module's tensor its values; one on the meta device gets memory of type `dtype` for a copy of them."""
    if own.is_meta:
        set_module_tensor_to_device(module, name, "cpu", value=values.to(dtype, copy=True), dtype=dtype)
    else:
        own.copy_(values)


class StrictLoad:
    """Checks loaded tensors against a model's, and reports all that do not fit in one error.

    Args:
        own: the model's tensors by name.
        source: of the loaded tensors, for the message.
    """

    def __init__(self, own: Mapping[str, Tensor], source: Path | str) -> None:
        self.own, self.source = own, source
        self.seen: set[str] = set()
        self.problems: list[str] = []

    def accepts(self, name: str, shape: Sequence[int], where: str = "", fewer_rows: bool = False) -> bool:
        """Whether the model has a tensor of this name and shape that was not loaded yet; else a problem is noted.

        Args:
            name: of the model's tensor.
            shape: of the loaded tensor.
            where: follows the name in the message.
            fewer_rows: accept fewer rows than the model has.
        """
        given, own = tuple(shape), tuple(self.own[name].shape) if name in self.own else None
        if own is None:
            self.problems.append(f"surplus: {name}{where}")
        elif name in self.seen:
            self.problems.append(f"twice: {name}{where}")
        elif given != own and not (fewer_rows and given[1:] == own[1:] and given[0] <= own[0]):
            self.problems.append(f"misshapen: {name} is {given}, expected {own}")
        else:
            self.seen.add(name)
            return True
        self.seen.add(name)
        return False

    def finish(self, wanted: Iterable[str] | None = None) -> None:
        """Check that no tensor is missing, once all are loaded.

        Args:
            wanted: names that must have been loaded; all of the model's by default.

        Raises:
            UserError: listing all missing, surplus, duplicate and misshapen tensors.
        """
        lacking = [f"missing: {name}" for name in (self.own if wanted is None else wanted) if name not in self.seen]
        if self.problems or lacking:
            listed = "\n  ".join([*self.problems, *lacking])
            raise UserError(f"{self.source} does not fit this configuration:\n  {listed}")


@contextmanager
def read_errors_as_user_error(path: Path) -> Iterator[None]:
    """Turn errors in reading `path` into a UserError that names it, and the class that a pickle asked for."""
    try:
        yield
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        wants = f"it asks for {asked[1]}" if asked else first_line(error)
        raise UserError(f"{path}: not read, for it is damaged or wants to run code ({wants})") from error
    except PermissionError as error:
        raise permission_denied(path) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or cut off ({first_line(error)}); fetch it again") from error


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """All tensors of one weight file, on the CPU; see `TensorFile` for what is raised."""
    return dict(TensorFile(path))


def stream_tensors(files: Iterable[Path], chunk: int = 1 << 30) -> Iterator[tuple[Path, str, Tensor]]:
    """Yield file, name and tensor of some weight files, with about `chunk` bytes in memory at a time.

    A tensor is valid until the next one is requested; copy it to keep it.
    """
    for path in files:
        file, read = TensorFile(path), 0
        for name in file:
            tensor = file[name]
            if not isinstance(tensor, Tensor):
                raise UserError(f"{path}: {name} is a {type(tensor).__name__}, not a tensor")
            read += tensor.nbytes
            yield path, name, tensor
            if read > chunk:
                del tensor
                file.reopen()
                read = 0


def holds_weights(folder: Path) -> bool:
    """Whether a folder has weights as transformers lays them out."""
    return any(is_file(folder / f"{stem}{end}") for stem in WEIGHT_FILES for end in ("", ".index.json"))


def weight_files(folder: Path) -> list[Path]:
    """The shards of a transformers folder, or its single file.

    Raises:
        UserError: no weights there, or the index is damaged.
    """
    for stem in WEIGHT_FILES:
        index = folder / f"{stem}.index.json"
        if is_file(index):
            return [folder / shard for shard in _shards_in_index(index)]
        if is_file(folder / stem):
            return [folder / stem]
    raise UserError(f"{folder}: no model.safetensors, pytorch_model.bin or index of shards in it")


def read_folder(folder: Path) -> Iterator[tuple[Path, dict[str, Tensor]]]:
    """The shards of a transformers folder, one after the other.

    Raises:
        UserError: no weights there, or a shard in the index is missing.
    """
    for path in weight_files(folder):
        yield path, read_tensors(path)


def _shards_in_index(index: Path) -> list[str]:
    """File names of the shards. Raises UserError where the index is damaged or names a file elsewhere."""
    found = read_json(index)
    try:
        shards = sorted(set(found["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index}: no index of shards ({first_line(error)}); fetch it again") from error
    if any(Path(shard).name != shard for shard in shards):
        raise UserError(f"{index}: names a shard outside its folder; fetch it again")
    return shards


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
