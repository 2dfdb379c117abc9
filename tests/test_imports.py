"""Imports run one way, runtime <- model <- rooms of utils <- scripts, and in no circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.training import CHECKOUT

FILES = [
    path.relative_to(CHECKOUT) for name in ("*.py", "model/**/*.py", "utils/**/*.py") for path in CHECKOUT.glob(name)
]
MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
DEEPSPEED_READERS = ("utils.training.", "model.checkpoints.deepspeed_files")


def imported(path: Path) -> set[str]:
    """What a file imports, wherever in it; names of modules, or of what is in one."""
    nodes = list(ast.walk(ast.parse((CHECKOUT / path).read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    of = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    assert not any(node.level for node in of), f"{path}: relative import"
    return names | {f"{node.module}.{alias.name}" for node in of for alias in node.names}


def arrows(path: Path) -> set[str]:
    """The modules of this project that a file imports."""
    return {name if name in MODULES else name.rpartition(".")[0] for name in imported(path)} & MODULES.keys()


def floor(module: str) -> int:
    """Where a module stands; it imports of its own floor and of those below."""
    return 0 if module.startswith("utils.runtime") else {"model": 1, "utils": 2}.get(module.partition(".")[0], 3)


def test_no_arrow_runs_up() -> None:
    up = [f"{a} -> {b}" for a, path in MODULES.items() for b in arrows(path) if floor(b) > floor(a)]
    assert not up


def test_there_is_no_circle() -> None:
    try:
        TopologicalSorter({module: arrows(path) for module, path in MODULES.items()}).prepare()
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from error


def test_rooms_of_utils_do_not_import_each_other_in_a_circle() -> None:
    rooms: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        inside = {".".join(one.split(".")[:2]) for one in (module, *arrows(path)) if one.startswith("utils.")}
        if module.startswith("utils."):
            room = ".".join(module.split(".")[:2])
            rooms[room] = rooms.get(room, set()) | inside - {room}
    TopologicalSorter(rooms).prepare()


def test_deepspeed_is_imported_by_training_and_the_reader_of_its_checkpoints_alone() -> None:
    users = [module for module, path in MODULES.items() for name in imported(path) if name.split(".")[0] == "deepspeed"]
    assert users and all(module.startswith(DEEPSPEED_READERS) for module in users)


def test_no_python_file_lies_loose_in_utils_and_scripts_hold_no_class() -> None:
    assert [path.name for path in (CHECKOUT / "utils").glob("*.py")] == ["__init__.py"]
    scripts = [path for path in FILES if len(path.parts) == 1]
    assert not [
        p for p in scripts for node in ast.parse((CHECKOUT / p).read_text()).body if isinstance(node, ast.ClassDef)
    ]
