"""Evaluation on several data sets: which there are, where they are looked for, and what has been published on them.

`benchmarks.yaml` lists them in the order in which papers print them. One that is not on disk is skipped, and where it
comes from is told. Each is evaluated as it would be alone, so that the files are the same, byte for byte, and a stopped
run goes on where it stopped; then one table sets all of them beside published numbers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from utils.datasets.base import DatasetSpec
from utils.datasets.layout import NotThere
from utils.datasets.registry import dataset_spec, load_dataset
from utils.datasets.sources import read_roots
from utils.evaluation.evaluate import Evaluator
from utils.evaluation.report.benchmark_table import Evaluated, benchmark_page, benchmark_table
from utils.runtime.distributed import rank
from utils.runtime.errors import UserError, print_result
from utils.runtime.files import atomic_write, write_errors_as_user_error, write_json
from utils.runtime.paths import is_folder

log = logging.getLogger(__name__)

FOLDER_NAME = re.compile(r"[\w+-][\w+.-]*")
FILE = Path(__file__).with_name("benchmarks.yaml")


@dataclass(frozen=True)
class Benchmark:
    """A data set that models are compared on.

    Args:
        name: what `--benchmarks` calls it.
        title: in tables.
        dataset: name of its format in the registry.
        root: its folder, where none is named.
        splits: that papers print.
        metrics: of tables, in the order of papers; () for those of the data set's rules.
        published: numbers of others in percent, each with model, split and source.
    """

    name: str
    title: str
    dataset: str
    root: Path
    splits: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    published: tuple[Mapping[str, Any], ...] = ()

    @property
    def spec(self) -> DatasetSpec:
        """Of its data set."""
        return dataset_spec(self.dataset)


def known_benchmarks() -> dict[str, Benchmark]:
    """Those of `benchmarks.yaml`, by name, in its order."""
    found = {}
    for entry in yaml.safe_load(FILE.read_text(encoding="utf-8")):
        name = entry["name"]
        found[name] = Benchmark(
            name,
            entry["title"],
            entry.get("dataset", name),
            Path(entry["root"]),
            tuple(entry["splits"]),
            tuple(entry.get("metrics", ())),
            tuple(entry.get("published") or ()),
        )
    return found


def chosen_benchmarks(text: str, data: str) -> list[Benchmark]:
    """The benchmarks that are named, in the order of `benchmarks.yaml`, then the user's own.

    Args:
        text: `NAME[@SPLIT],…`; "all" for all that are known.
        data: folders, as in `utils.datasets.sources.read_roots`, or "" for the usual ones; a name that is no benchmark
            is a data set of the user's own, evaluated on its split "test" where none is named.

    Raises:
        UserError: a name is neither, or a split is not one of the data set.
    """
    known, roots = known_benchmarks(), read_roots(data) if data else {}
    wanted: dict[str, list[str]] = {}
    for part in text.split(","):
        name, _, split = part.strip().partition("@")
        for one in known if name == "all" else [name]:
            usual = known[one].splits if one in known else ("test",)
            wanted.setdefault(one, []).extend([split] if split else usual)
    for name in [*wanted, *(split for splits in wanted.values() for split in splits)]:
        if not FOLDER_NAME.fullmatch(name):  # results lie in folders of these names
            raise UserError(f"--benchmarks {text}: {name!r} is no name of letters, digits and + - _ .")
    found = []
    for name in [*(one for one in known if one in wanted), *(one for one in wanted if one not in known)]:
        if name not in known and name not in roots:
            raise UserError(
                f"--benchmarks {text}: {name!r} is unknown; known are all, {', '.join(known)}, and what --data names "
                "(NAME=FORMAT:FOLDER)"
            )
        one = known.get(name) or Benchmark(name, name, roots[name][0], roots[name][1], ("test",))
        if name in roots:
            one = replace(one, dataset=roots[name][0], root=roots[name][1])
        unknown = [split for split in wanted[name] if name in known and split not in one.spec.splits]
        if unknown:
            raise UserError(f"--benchmarks {text}: {name} has no split {unknown[0]!r}; {', '.join(one.spec.splits)}")
        found.append(replace(one, splits=tuple(dict.fromkeys(wanted[name]))))
    return found


def evaluate_benchmarks(evaluator: Evaluator, options: Any, out: Path) -> None:
    """Evaluate on each of the benchmarks that are on disk, and write `benchmarks.json` and `benchmarks.html`.

    Args:
        evaluator: of the model.
        options: of eval.py.
        out: folder of the results; each split has a folder in it.

    Raises:
        UserError: none of them is there, or an evaluation fails; what was finished stays, and the same command goes on.
    """
    chosen = chosen_benchmarks(options.benchmarks, options.data)
    there, missing = readable_splits(chosen, options)
    for line in missing:
        log.warning("%s", line)
    if not there:
        raise UserError(f"--benchmarks {options.benchmarks}: none of them is on disk; fetch one, or name its --data")
    done: list[Evaluated] = []
    for one, split in there:
        named = replace(options, dataset=one.dataset, data=str(one.root), split=split)
        metrics = evaluator.evaluate(named, out / one.name / split)
        if metrics is not None:
            done.append(Evaluated(one.name, one.title, split, one.metrics, metrics, one.published))
    if rank() == 0:
        write_summary(out, done, missing)


def readable_splits(chosen: Sequence[Benchmark], options: Any) -> tuple[list[tuple[Benchmark, str]], list[str]]:
    """The splits that are on disk, and what is told of each that is not. All are read once before a model is asked, so
    that what is wrong in the last of them does not wait for the others.

    Raises:
        UserError: a data set has no rules of the wanted name, or a record cannot be used.
    """
    there, missing = [], []
    for one in chosen:
        one.spec.scoring(options.metric)
        if not is_folder(one.root):
            missing.append(f"{one.title}: skipped, {one.root} is not there; it comes from {one.spec.source}")
            continue
        for split in one.splits:
            reading = options.polygons, options.skip_bad_records, options.orientation
            try:
                load_dataset(one.root, split, one.dataset, *reading)
            except NotThere as error:
                missing.append(f"{one.title} {split}: skipped, {error}")
            else:
                there.append((one, split))
    return there, missing


def write_summary(out: Path, done: Sequence[Evaluated], missing: Sequence[str]) -> None:
    """The table of all benchmarks: printed, as JSON and as a page that leads to the report of each.

    Raises:
        UserError: a file cannot be written.
    """
    print_result("\n".join([benchmark_table(done), *missing]))
    page = out / "benchmarks.html"
    with write_errors_as_user_error(page):
        write_json(out / "benchmarks.json", {"measured": [one.as_json() for one in done], "skipped": list(missing)})
        atomic_write(page, benchmark_page(done, missing).encode())
    log.info("written to %s", page)
