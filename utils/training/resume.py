"""A run's state on disk: everything to resume exactly where a run stopped, written atomically.

`RUN/state/step-00000150-epoch-0002/` holds DeepSpeed's checkpoint (trained weights, optimiser, schedule), the
random states of each process, `progress.json`, and `checksums.json` over all files. A folder is written under
another name and renamed; only then are older ones deleted. A run that has ended leaves `finished.json` instead.

Frozen weights are not saved: the same command loads or initialises the same again.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from model.checkpoints.deepspeed_files import plain_path, safe_unpickling
from model.checkpoints.tensors import TensorFile
from utils.runtime.distributed import barrier, broadcast_from_rank0, rank, world_size
from utils.runtime.errors import UserError
from utils.runtime.files import (
    atomic_write,
    exclusive_lock,
    file_hash,
    link_or_copy,
    make_output_folder,
    write_errors_as_user_error,
)
from utils.runtime.json_files import read_json
from utils.runtime.paths import entries, is_file, is_folder

log = logging.getLogger(__name__)

PROGRESS, CHECKSUMS, FINISHED = "progress.json", "checksums.json", "finished.json"
STATE = "state"  # the folder of states in that of a run
STEPS = "step-"  # what the names of states begin with
# Options that may differ on resume, since they change no weight.
RESUME_MAY_CHANGE = {"run_dir", "workers", "log_every", "save_steps", "save_minutes", "keep", "restart"}
RESUME_MAY_CHANGE |= {"timeout_minutes", "max_bad_steps"}
# What batch size and steps an epoch follow from, which are compared themselves.
RESUME_MAY_CHANGE |= {"global_batch", "samples_per_epoch"}
RECORDS = "training records"  # their number and checksum; others are told, and the run goes on over them
BY_NAME, BY_MODULE = "by name", "by module"  # how a run decides which weights are decayed
STATE_CURE = "take it away to go on from the one before, or pass --restart to train anew"


@dataclass
class Progress:
    """How far a run has come.

    Args:
        step: optimiser steps done.
        epoch: epochs ended, their validation included.
        drawn: batches that each process took from its sampler.
        best: highest value of the first metric in validation.
        bad_steps: batches and steps skipped for a non-finite loss or gradient.
        seconds: time that the run took so far, over all its starts.
        sums: of each loss since the last log line, in this process.
        summed: number of micro-steps in `sums`.
        spent: seconds of `seconds` in validation, and in writing checkpoints and states.
    """

    step: int = 0
    epoch: int = 0
    drawn: int = 0
    best: float = -1.0
    bad_steps: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=list)
    summed: int = 0
    spent: dict[str, float] = field(default_factory=lambda: {"validation": 0.0, "writing": 0.0})


class RunStates:
    """The states of one run.

    Args:
        run_dir: of the run.
        settings: the run's options; a state is resumed only with the same.
        keep: how many states stay.
        derived: settings that nobody named and that follow from the number of records.
    """

    def __init__(self, run_dir: Path, settings: dict[str, Any], keep: int, derived: Iterable[str] = ()) -> None:
        self.folder, self.keep, self.derived = run_dir / STATE, keep, list(derived)
        self.current: str | None = None  # the state last saved or loaded by this process
        self.decay_by_name = False  # the rule of weight decay of a run that an earlier version began
        # through JSON and back, so that they compare equal to saved ones
        self.settings = json.loads(json.dumps({**settings, "processes": world_size()}))

    def check_shared(self) -> None:
        """Raise UserError where states cannot be written or a rank does not see rank 0's files."""
        broadcast_from_rank0(partial(make_output_folder, self.folder, "--run-dir") if rank() == 0 else None)
        if not is_folder(self.folder):
            raise UserError(
                f"--run-dir: {self.folder} is not seen by process {rank()}; use a disk that all nodes share"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock: a second start of it, by mistake or by a scheduler, is refused.

        Raises:
            UserError: another process holds it.
        """
        if rank():
            yield
            return
        with ExitStack() as lock:
            try:
                lock.enter_context(exclusive_lock(self.folder / "running"))
            except BlockingIOError as error:  # of the lock alone, not from inside the block
                raise UserError(
                    f"{self.folder.parent}: another process trains there; end it, or name another --run-dir"
                ) from error
            yield

    def clear(self) -> None:
        """Delete all states, so that the run starts over."""
        if rank() == 0:
            self.remove(self.states())
            (self.folder / FINISHED).unlink(missing_ok=True)
        barrier()

    def begun(self) -> bool:
        """Whether the folder holds a state, or the mark of a run that has ended."""
        return bool(self.states()) or is_file(self.folder / FINISHED)

    def finished(self) -> bool:
        """Whether the run has ended.

        Raises:
            UserError: a run with other options has.
        """

        def look() -> bool:
            file = self.folder / FINISHED
            if is_file(file):
                self.check_settings(file)
                self.remove(self.states())  # where the run was killed before that
            return is_file(file)

        return broadcast_from_rank0(look if rank() == 0 else None)

    def states(self) -> list[Path]:
        """Folders of all states, oldest first."""
        return state_folders(self.folder)

    @staticmethod
    def remove(states: list[Path]) -> None:
        """Delete states."""
        for state in states:
            shutil.rmtree(state)

    def newest(self) -> Path | None:
        """The newest undamaged state, None without; damaged ones are logged and skipped.

        Raises:
            UserError: it belongs to a run with other options.
        """
        found = broadcast_from_rank0(self._newest_whole if rank() == 0 else None)
        if found is not None:
            record = self.check_settings(found / PROGRESS)
            self.decay_by_name = record.get("decay", BY_NAME) == BY_NAME
        return found

    def _newest_whole(self) -> Path | None:
        for folder in reversed(self.states()):
            damaged = find_damage(folder)
            if not damaged:
                return folder
            log.warning("%s is damaged (%s) and skipped", folder, damaged)
        return None

    def check_settings(self, file: Path) -> dict[str, Any]:
        """The record in `file`; warns where its training records differ from this run's.

        Raises:
            UserError: the options in it differ from this run's, or it cannot be read.
        """
        record = read_record(file)
        then, now = without_retired(record), self.settings
        if then.get(RECORDS) != now.get(RECORDS):
            log.warning(
                "%s: this run began with other training records: %s by number and checksum of ids and questions, now "
                "%s. It goes on over those that are there now, in the order that follows from them and --seed",
                *(self.folder.parent, then.get(RECORDS), now.get(RECORDS)),
            )
        if then.get("steps_per_epoch", 0) is None:  # of an earlier version, see `begun_with`
            then["steps_per_epoch"] = now["steps_per_epoch"]
        names = sorted((then.keys() | now.keys()) - RESUME_MAY_CHANGE - {RECORDS})
        other = [f"{n} {then.get(n)!r}, now {now.get(n)!r}" for n in names if then.get(n) != now.get(n)]
        if other:
            nproc = f" (NPROC={then['processes']})" if then.get("processes") != now["processes"] else ""
            raise UserError(
                f"{self.folder.parent} is a run with other options ({'; '.join(other)}); give the same{nproc}, another "
                "--run-dir, or --restart to train it anew"
            )
        return record

    def save(self, engine: Any, progress: Progress) -> None:
        """Save a state unless it is the current one, and delete all but the newest `keep`; every rank calls this.

        Raises:
            UserError: the disk is full; earlier states are as they were.
        """
        step = f"step-{progress.step:08d}"
        name = f"{step}-epoch-{progress.epoch:04d}"
        if name == self.current:
            return  # saved by the epoch's last step, or resumed from before its validation
        with write_errors_as_user_error(self.folder / name), self._beside() as beside:
            linked = {}
            if (self.current or "").startswith(f"{step}-"):  # a validation came between, which trains nothing
                linked = self._link_engine(beside / name)
            else:
                engine.save_checkpoint(str(beside), tag=name, save_latest=False, exclude_frozen_parameters=True)
            torch.save(random_states() | {"sums": progress.sums}, beside / name / f"process-{rank()}.pt")
            barrier()
            if rank() == 0:
                record = {"progress": asdict(progress), "settings": self.settings, "derived": self.derived}
                record["decay"] = BY_NAME if self.decay_by_name else BY_MODULE
                (beside / name / PROGRESS).write_text(json.dumps(record, indent=1))
                write_checksums(beside / name, linked)
                # later ones are damaged, or this run would have resumed from them
                self.remove([state for state in self.states() if state.name >= name])
                (beside / name).rename(self.folder / name)
        if rank() == 0:
            self.remove(self.states()[: -self.keep])
        self.current = name
        barrier()

    def _link_engine(self, folder: Path) -> dict[str, str]:
        """DeepSpeed's files of the current state in a new folder, not written again; on rank 0 their checksums."""
        sums: dict[str, str] = {}
        if rank() == 0:
            folder.mkdir()
            for name, found in read_json(self.folder / self.current / CHECKSUMS).items():
                if name != PROGRESS and not name.startswith("process-"):
                    link_or_copy(self.folder / self.current / name, folder / name)
                    sums[name] = found
        barrier()
        return sums

    @contextmanager
    def _beside(self) -> Iterator[Path]:
        """A temporary folder to write into, the same for all ranks."""
        beside = self.folder / ".writing"
        if rank() == 0:
            shutil.rmtree(beside, ignore_errors=True)  # left by a killed run
            beside.mkdir(parents=True)
        barrier()
        try:
            yield beside
        finally:
            if rank() == 0:
                shutil.rmtree(beside, ignore_errors=True)

    def load(self, engine: Any, folder: Path) -> Progress:
        """Restore the engine and all random states from a state.

        Raises:
            UserError: a file is damaged.
        """
        with safe_unpickling(mmap=False), plain_path(folder) as (place, tag):  # the run goes on and removes this state
            # not strict: what does not train is not in it
            found, _ = engine.load_checkpoint(place, tag=tag, load_module_strict=False)
        if found is None:
            raise UserError(f"{folder}: DeepSpeed finds no state in it; {STATE_CURE}")
        own = dict(TensorFile(folder / f"process-{rank()}.pt"))
        set_random_states(own)
        progress = Progress(**read_record(folder / PROGRESS)["progress"])
        progress.sums = own["sums"]
        self.current = folder.name
        return progress

    def finish(self) -> None:
        """Mark the run as ended, and delete its states."""
        if rank() == 0:
            record = {"settings": self.settings, "derived": self.derived}
            with write_errors_as_user_error(self.folder / FINISHED):
                atomic_write(self.folder / FINISHED, json.dumps(record, indent=1).encode())
            self.remove(self.states())
        barrier()


def state_folders(folder: Path) -> list[Path]:
    """The states in a run's folder of states, oldest first."""
    return [path for path in entries(folder) if path.name.startswith(STEPS)]


def begun_with(folder: Path) -> dict[str, Any]:
    """The derived options that the run of a folder of states began with; {} where none has begun.

    Earlier versions noted none, and `steps_per_epoch` as None where an epoch was one pass.
    """

    def look() -> dict[str, Any]:
        states = (state / PROGRESS for state in reversed(state_folders(folder)))
        for file in filter(is_file, [folder / FINISHED, *states]):
            try:
                record = read_record(file)
                derived = record.get("derived", ["steps_per_epoch"])
                return {name: record["settings"][name] for name in derived if name in record["settings"]}
            except UserError as error:  # the one before says the same
                log.warning("%s", error)
        return {}

    return broadcast_from_rank0(look if rank() == 0 else None)


def read_record(file: Path) -> dict[str, Any]:
    """A state's `progress.json`, or `finished.json`: an object with the run's settings.

    Raises:
        UserError: it cannot be read or holds none.
    """
    record = read_json(file, STATE_CURE, strict=False)  # paths among them may have bytes that are no UTF-8
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise UserError(f"{file}: holds no options of a run; {STATE_CURE}")
    return record


def without_retired(record: dict[str, Any]) -> dict[str, Any]:
    """The options of a state, without removed options that have no effect any more.

    The feature cache changed no number. Place hints acted in the first `hint_steps` steps only; a state from
    before their end cannot be resumed, so the option is kept and the state is refused.
    """
    settings = {"orientation": "check", "text_weight": 1.0, "words_dropout": 0.0, **record["settings"]}
    for name in ("feature_cache", "feature_cache_gb"):
        settings.pop(name, None)
    share, steps = settings.pop("hint_share", 0), settings.pop("hint_steps", 0)
    if share and record.get("progress", {}).get("step", steps) < steps:
        settings["hint_share"] = share
    return settings


def write_checksums(folder: Path, known: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write `checksums.json`, the sha256 of every other file in `folder`; those in `known` are not read again."""
    files = [path for path in entries(folder) if path.name != CHECKSUMS and path.name not in known]
    with ThreadPoolExecutor() as pool:
        sums = dict(zip((path.name for path in files), pool.map(file_hash, files), strict=True))
    (folder / CHECKSUMS).write_text(json.dumps({**known, **sums}, indent=1))


def find_damage(folder: Path) -> str:
    """Damage to the files of a state, in words; "" where there is none.

    Raises:
        UserError: this user may not read them, which is no damage.
    """
    if not is_file(folder / CHECKSUMS):
        return f"no {CHECKSUMS}"
    try:
        sums = read_json(folder / CHECKSUMS)
    except UserError as error:
        return str(error)
    if not isinstance(sums, dict):
        return f"{CHECKSUMS} holds a {type(sums).__name__}"
    missing = [name for name in sums if not is_file(folder / name)]
    if missing:
        return f"no {', '.join(missing)}"
    with ThreadPoolExecutor() as pool:
        found = dict(zip(sums, pool.map(file_hash, [folder / name for name in sums]), strict=True))
    return ", ".join(f"{name} has changed" for name in sums if found[name] != sums[name])


def random_states() -> dict[str, Any]:
    """The states of this process's random generators, in types that load with `weights_only`."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restore `random_states`."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"])
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
