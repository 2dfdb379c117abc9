"""Features of a frozen SAM2 kept on disk, so that it sees a picture once: `--feature-cache DIR`.

A file a picture, named by all that its features follow from: the tensor that SAM2 sees (so a mirrored
picture is another one), SAM2's weights and settings, and where and how it computes. Features are kept as
they were computed, in the same type and order in memory, so every result is the one without a cache, to the
bit. (As far as SAM2 itself gives a picture the same in every batch: of `mini`'s last bits some differ in
batches of 16.) Any number of processes and runs share a folder.

Shape legend: B pictures, P pixels along a side of the input, C, H and W of a level.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from sam2.modeling.sam2_utils import DropPath
from torch import Tensor, nn

from model.pixdlm import PixDLMForCausalLM
from utils.args import CacheArgs
from utils.errors import UserError
from utils.files import write_file

log = logging.getLogger(__name__)

NAME = re.compile(r"[0-9a-f]{64}\.features")  # nothing else in the folder is ever removed
LEFT_OVER = re.compile(rf"\.{NAME.pattern}\.writing")  # by a process that was killed
LOCK = ".lock"
CHECKSUM = "crc32"
LAST = " channels last"  # after a level's number: how its numbers lie

Features = dict[str, Tensor]  # of one picture: its levels by number, contiguous, on the CPU


def start_cache(model: PixDLMForCausalLM, args: CacheArgs) -> FeatureCache | None:
    """Let a model look SAM2's features up where the options ask for it; weights, type and device are final.

    Raises:
        UserError: SAM2 trains, so that its features change, or the folder cannot be written.
    """
    if args.feature_cache is None:
        return None
    encoder = model.pixel_path.encoder
    if model.training and any(parameter.requires_grad for parameter in encoder.parameters()):
        raise UserError("--feature-cache needs a frozen SAM2, and in this run it trains; leave one of both out")
    if model.training and any(isinstance(module, DropPath) for module in encoder.modules()):
        raise UserError("--feature-cache: SAM2's drop_path_rate makes its features random; set it to 0")
    limit = int(args.feature_cache_gb * 1e9)
    facts = [model.config.pixel_encoder, model.config.pixel_image_size, weights_digest(encoder)]
    # without a pyramid the model reads the coarsest level alone
    cache = FeatureCache(Path(args.feature_cache), limit, facts, None if model.config.pixel_pyramid else 1)
    model.pixel_path.cache = cache
    return cache


class FeatureCache:
    """What a `PixelPath` calls in place of its encoder.

    Args:
        folder: where the files go.
        limit: bytes that they may take together; those used longest ago make room.
        facts: what features follow from beside the pixels and the machine.
        levels: how many of the pyramid's levels are read and kept, the coarsest first; None for all.

    Raises:
        UserError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, limit: int, facts: list, levels: int | None = None) -> None:
        self.folder, self.limit, self.facts, self.levels = folder, limit, facts, levels
        self.read = self.encoded = self.removed = 0  # pictures, by this process
        self.stores = True
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self.alone():
                pass
        except OSError as error:
            raise UserError(f"--feature-cache {folder}: cannot be written ({error.strerror}); name another") from error

    def __call__(self, pixels: Tensor, encode: Callable[[Tensor], list[Tensor]]) -> list[Tensor]:
        """Every picture's pyramid; only pictures that are not known are encoded.

        Args:
            pixels: float[B, 3, P, P]
            encode: float[b, 3, P, P] -> float[b, C, H, W] a level, coarsest first.
        """
        files = [self.folder / f"{self.key(picture)}.features" for picture in pixels]
        found = [self.load(file) for file in files]
        missing = [i for i, features in enumerate(found) if features is None]
        if missing:
            pyramid = encode(pixels[missing])[: self.levels]
            for place, i in enumerate(missing):
                found[i] = taken_out(pyramid, place)
                self.store(files[i], found[i])
        self.encoded += len(missing)
        self.read += len(files) - len(missing)
        return put_together(found, pixels.device)

    def key(self, pixels: Tensor) -> str:
        """The name of a picture's features: float[3, P, P] -> 64 hexadecimal digits."""
        digest = hashlib.sha256(json.dumps([*self.facts, self.levels, *circumstances(pixels)]).encode())
        digest.update(as_bytes(pixels.cpu()))
        return digest.hexdigest()

    def load(self, file: Path) -> Features | None:
        """A picture's features; None where they are not kept, or are damaged, which is told."""
        try:
            with file.open("rb") as opened:
                # safetensors opens by name, and twice; by its number it finds this very file, though another
                # process may remove or replace it meanwhile
                features = load_file(f"/dev/fd/{opened.fileno()}")
                if features.pop(CHECKSUM).item() != checksum(features):
                    raise ValueError("its checksum does not fit")
                os.utime(opened.fileno())  # used now
            return features
        except FileNotFoundError:
            return None
        except (SafetensorError, RuntimeError, OSError, KeyError, ValueError) as error:
            log.warning("%s: damaged (%s); its picture is encoded again", file, error)
            return None

    def store(self, file: Path, features: Features) -> None:
        """Keep a picture's features.

        A disk that takes no more is told once, and the run goes on: no result depends on it.

        Raises:
            UserError: the limit is less than they need.
        """
        if not self.stores:
            return
        data = save({**features, CHECKSUM: torch.tensor(checksum(features))})
        if len(data) > self.limit:
            raise UserError(
                f"--feature-cache-gb is {self.limit / 1e9:g}, and one picture's features take {len(data) / 1e9:.3f}; "
                "raise it, or leave --feature-cache out"
            )
        try:
            with self.alone():
                self.make_room(len(data))
                write_file(file, data)
        except OSError as error:
            self.stores = False
            log.warning("%s: cannot be written (%s); no more features are kept", file, error)

    def make_room(self, size: int) -> None:
        """Remove what was used longest ago until `size` bytes more are within the limit."""
        kept = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name):
                    kept.append((entry.stat().st_mtime_ns, entry.stat().st_size, entry.path))
                elif LEFT_OVER.fullmatch(entry.name):
                    os.unlink(entry.path)
        total = sum(bytes_of for _, bytes_of, _ in kept)
        for _, bytes_of, path in sorted(kept):
            if total + size <= self.limit:
                return
            os.unlink(path)
            total -= bytes_of
            self.removed += 1
            if self.removed == 1:
                log.warning("%s is full: features used longest ago make room (--feature-cache-gb)", self.folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else adds or removes files meanwhile; a process that is killed holds nobody up."""
        with (self.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def log_use(self) -> None:
        """Say how often it helped."""
        log.info("%s: features of %d pictures read, of %d encoded", self.folder, self.read, self.encoded)


def weights_digest(module: nn.Module) -> str:
    """Of every tensor with its name and type."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(as_bytes(tensor.cpu()))
    return digest.hexdigest()


def circumstances(pixels: Tensor) -> list:
    """What of the machine and its settings may change a last digit."""
    kind = pixels.device.type
    facts = [str(pixels.dtype), list(pixels.shape), kind, torch.__version__]
    facts.append(str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None)
    if kind == "cuda":
        precision = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        return [*facts, torch.cuda.get_device_name(pixels.device), *precision]
    return [*facts, torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()]


def taken_out(pyramid: list[Tensor], place: int) -> Features:
    """One picture's features out of float[B, C, H, W] a level, copied in the order in which they lie in memory."""
    features = {}
    for number, level in enumerate(pyramid):
        one, last = level[place].detach(), not level.is_contiguous()
        features[f"{number}{LAST * last}"] = (one.permute(1, 2, 0) if last else one).contiguous().cpu()
    return features


def put_together(pictures: list[Features], device: torch.device) -> list[Tensor]:
    """The pyramid of a batch, float[B, C, H, W] a level, lying in memory as the encoder leaves it.

    The order is kept because the layers that follow choose their arithmetic by it.
    """
    levels = []
    for name in sorted(pictures[0]):
        level = torch.stack([features[name] for features in pictures]).to(device)
        levels.append(level.permute(0, 3, 1, 2) if name.endswith(LAST) else level)
    return levels


def checksum(features: Features) -> int:
    """CRC-32 of all levels, their names, types and shapes."""
    value = 0
    for name in sorted(features):
        tensor = features[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(as_bytes(tensor), value)
    return value


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor on the CPU, without a copy where it is contiguous."""
    return memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
