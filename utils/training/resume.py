"""A run's state on disk: all that it takes to go on exactly where a run stopped, whole or not there.

`RUN/state/step-00000150-epoch-0002/` holds what DeepSpeed saves (trained weights, optimiser, schedule), a
file a process with its random states, `progress.json`, and `checksums.json` over all of it. A folder is
written beside and renamed, and replaces no other; older ones go only then. A run that has ended leaves
`finished.json` in their place.

What does not train is not saved: the same command reads or draws the same again.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.checkpoints.deepspeed_files import safe_unpickling
from model.checkpoints.tensors import TensorFile
from utils.runtime.distributed import barrier, broadcast_from_rank0, rank, world_size
from utils.runtime.errors import UserError
from utils.runtime.files import atomic_write, exclusive_lock, file_hash, write_errors_as_user_error

log = logging.getLogger(__name__)

PROGRESS, CHECKSUMS, FINISHED = "progress.json", "checksums.json", "finished.json"
STEPS = "step-*"
# What may be another when a run goes on: none of it changes a weight.
RESUME_MAY_CHANGE = {"run_dir", "workers", "log_every", "save_steps", "save_minutes", "keep", "restart"}
RESUME_MAY_CHANGE |= {"timeout_minutes", "max_bad_steps"}


@dataclass
class Progress:
    """How far a run has come.

    Args:
        step: optimiser steps done.
        epoch: epochs ended, their validation included.
        drawn: batches that each process took from its sampler.
        best: highest gIoU in validation.
        bad_steps: batches and steps left out since a loss or gradient was no number.
        seconds: time that the run took, over all its starts.
        sums: of each loss since the last log line, in this process.
        summed: micro-steps in them.
    """

    step: int = 0
    epoch: int = 0
    drawn: int = 0
    best: float = -1.0
    bad_steps: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=list)
    summed: int = 0


class RunStates:
    """The states of one run.

    Args:
        run_dir: of the run.
        settings: the run's options; a state is taken up only by the same.
        keep: how many states stay.
    """

    def __init__(self, run_dir: Path, settings: dict[str, Any], keep: int) -> None:
        self.folder, self.keep = run_dir / "state", keep
        self.current: str | None = None  # the state that this process wrote last or went on from
        # as JSON gives them back, so that both sides compare equal
        self.settings = json.loads(json.dumps({**settings, "processes": world_size()}))

    def check_shared(self) -> None:
        """Raises UserError where a process does not see the first one's files: its own would be of no use."""
        if rank() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
        barrier()
        if not self.folder.is_dir():
            raise UserError(
                f"--run-dir: {self.folder} is not seen by process {rank()}; use a disk that all nodes share"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The run is this one's: a second start of it, by mistake or by a scheduler, is refused.

        Raises:
            UserError: another one trains there.
        """
        if rank():
            yield
            return
        with ExitStack() as lock:
            try:
                lock.enter_context(exclusive_lock(self.folder / "running"))
            except BlockingIOError as error:  # of the lock; one from inside the run is another matter
                raise UserError(
                    f"{self.folder.parent}: another process trains there; end it, or name another --run-dir"
                ) from error
            yield

    def clear(self) -> None:
        """Forget every state, so that the run starts anew."""
        if rank() == 0:
            self.remove(self.states())
            (self.folder / FINISHED).unlink(missing_ok=True)
        barrier()

    def finished(self) -> bool:
        """Whether this very run has ended.

        Raises:
            UserError: one with other options has.
        """

        def look() -> bool:
            file = self.folder / FINISHED
            if file.is_file():
                self.check_settings(file)
                self.remove(self.states())  # where the run was killed before that
            return file.is_file()

        return broadcast_from_rank0(look if rank() == 0 else None)

    def states(self) -> list[Path]:
        """All that are there, the oldest first."""
        return sorted(self.folder.glob(STEPS))

    @staticmethod
    def remove(states: list[Path]) -> None:
        """Take states away."""
        for state in states:
            shutil.rmtree(state)

    def newest(self) -> Path | None:
        """The last state whose files are as they were written; what is damaged is told and passed over.

        Raises:
            UserError: it belongs to a run with other options.
        """
        found = broadcast_from_rank0(self._newest_whole if rank() == 0 else None)
        if found is not None:
            self.check_settings(found / PROGRESS)
        return found

    def _newest_whole(self) -> Path | None:
        for folder in reversed(self.states()):
            damaged = find_damage(folder)
            if not damaged:
                return folder
            log.warning("%s is damaged (%s) and passed over", folder, damaged)
        return None

    def check_settings(self, file: Path) -> None:
        """Raises UserError where the options in `file` are others than now."""
        record = json.loads(file.read_text())
        then, now = without_retired(record), self.settings
        names = sorted((then.keys() | now.keys()) - RESUME_MAY_CHANGE)
        other = [f"{n} {then.get(n)!r}, now {now.get(n)!r}" for n in names if then.get(n) != now.get(n)]
        if other:
            raise UserError(
                f"{self.folder.parent} is a run with other options ({'; '.join(other)}); give the same, another "
                "--run-dir, or --restart to train it anew"
            )

    def save(self, engine: Any, progress: Progress) -> None:
        """Write a state, unless it is the current one; every process calls it. Then only the `keep` last stay.

        Raises:
            UserError: the disk is full; earlier states are as they were.
        """
        name = f"step-{progress.step:08d}-epoch-{progress.epoch:04d}"
        if name == self.current:
            return  # an epoch's last step has written it, or a run goes on that was stopped in its validation
        with write_errors_as_user_error(self.folder / name), self._beside() as beside:
            engine.save_checkpoint(str(beside), tag=name, save_latest=False, exclude_frozen_parameters=True)
            torch.save(random_states() | {"sums": progress.sums}, beside / name / f"process-{rank()}.pt")
            barrier()
            if rank() == 0:
                record = {"progress": asdict(progress), "settings": self.settings}
                (beside / name / PROGRESS).write_text(json.dumps(record, indent=1))
                write_checksums(beside / name)
                # a later one is damaged, or this run would have gone on from it
                self.remove([state for state in self.states() if state.name >= name])
                (beside / name).rename(self.folder / name)
        if rank() == 0:
            self.remove(self.states()[: -self.keep])
        self.current = name
        barrier()

    @contextmanager
    def _beside(self) -> Iterator[Path]:
        """A folder to write into, the same for all processes and gone afterwards."""
        beside = self.folder / ".writing"
        if rank() == 0:
            shutil.rmtree(beside, ignore_errors=True)  # what a killed run left
            beside.mkdir(parents=True)
        barrier()
        try:
            yield beside
        finally:
            if rank() == 0:
                shutil.rmtree(beside, ignore_errors=True)

    def load(self, engine: Any, folder: Path) -> Progress:
        """Put the engine and all random states where they were when `folder` was written.

        Raises:
            UserError: the files are not those of this model.
        """
        with safe_unpickling():
            # not strict: what does not train is not in it
            engine.load_checkpoint(str(folder.parent), tag=folder.name, load_module_strict=False)
        own = dict(TensorFile(folder / f"process-{rank()}.pt"))
        set_random_states(own)
        progress = Progress(**json.loads((folder / PROGRESS).read_text())["progress"])
        progress.sums = own["sums"]
        self.current = folder.name
        return progress

    def finish(self) -> None:
        """The run has ended: its states go, and a mark stays that says so."""
        if rank() == 0:
            with write_errors_as_user_error(self.folder / FINISHED):
                atomic_write(self.folder / FINISHED, json.dumps({"settings": self.settings}, indent=1).encode())
            self.remove(self.states())
        barrier()


def without_retired(record: dict[str, Any]) -> dict[str, Any]:
    """The options of a state, less those of earlier versions that no longer act.

    The feature cache changed no number. Place hints acted in the first `hint_steps` steps alone: before that a
    state cannot go on as it began, so they stay and the state is refused.
    """
    settings = dict(record["settings"])
    for name in ("feature_cache", "feature_cache_gb"):
        settings.pop(name, None)
    share, steps = settings.pop("hint_share", 0), settings.pop("hint_steps", 0)
    if share and record.get("progress", {}).get("step", steps) < steps:
        settings["hint_share"] = share
    return settings


def write_checksums(folder: Path) -> None:
    """`checksums.json`, the sha256 of every other file in `folder`."""
    files = sorted(path for path in folder.iterdir() if path.name != CHECKSUMS)
    with ThreadPoolExecutor() as pool:
        sums = dict(zip((path.name for path in files), pool.map(file_hash, files), strict=True))
    (folder / CHECKSUMS).write_text(json.dumps(sums, indent=1))


def find_damage(folder: Path) -> str:
    """What is wrong with the files of a state, "" where nothing is."""
    try:
        sums = json.loads((folder / CHECKSUMS).read_text())
    except (OSError, ValueError) as error:
        return f"{CHECKSUMS}: {error}"
    missing = [name for name in sums if not (folder / name).is_file()]
    if missing:
        return f"no {', '.join(missing)}"
    with ThreadPoolExecutor() as pool:
        found = dict(zip(sums, pool.map(file_hash, [folder / name for name in sums]), strict=True))
    return ", ".join(f"{name} has changed" for name in sums if found[name] != sums[name])


def random_states() -> dict[str, Any]:
    """Every generator that training draws from, of this process."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """The reverse of `random_states`."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"])
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
