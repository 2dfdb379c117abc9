"""train.sh, eval.sh and tests/run.sh: what they run, with which arguments, in which environment.

A copy of the scripts runs stand-ins here: train.py and eval.py that record how they were called, and
packages that are a file each, so that an installation takes seconds and needs no network.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from tests.training import CHECKOUT
from utils.cli.eval_options import parse_eval

COPIED = ("train.sh", "eval.sh", "tests/run.sh", "utils/__init__.py", "utils/cli/__init__.py")
COPIED += tuple(f"utils/runtime/{name}.py" for name in ("__init__", "errors", "ports"))
COPIED += tuple(f"utils/cli/{name}" for name in ("environment.sh", "arguments.sh", "check_environment.py", "launch.py"))
RECORDER = """
import json, os, sys
line = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:]])
open(os.environ["CALLS"], "a").write(line + "\\n")
sys.exit(int(os.environ.get("STATUS_" + os.path.basename(sys.argv[0])[:-3].upper(), "0")))
"""
MINI = """
import argparse, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--out", type=pathlib.Path, required=True)
parser.add_argument("--if-missing", action="store_true", required=True)
(parser.parse_args().out / "labels").mkdir(parents=True, exist_ok=True)
"""
READING = ["--polygons", "first", "--workers", "1", "--skip-bad-records"]  # holds for training and evaluation
FAKE_TORCH = "class cuda:\n    device_count = staticmethod(lambda: 0)\n"  # the real one takes seconds
# A run without a global batch, which is one process.
FAKE_OPTIONS = "import types\nparse_train = lambda argv: types.SimpleNamespace(global_batch=None)\n"

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the scripts and stand-ins for the rest."""
    root = tmp_path / "check out"  # a path may hold a blank
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, root / name)
    for name in ("train.py", "eval.py"):
        (root / name).write_text(RECORDER)
    (root / "utils" / "mini_drseg.py").write_text(MINI)
    (root / "torch.py").write_text(FAKE_TORCH)
    (root / "utils/cli/train_options.py").write_text(FAKE_OPTIONS)
    (root / "requirements.txt").write_text("torch>=2.11\ntorchvision>=0.26\nsam2>=1.1\npackaging>=20\n")
    return root


@pytest.fixture
def run(checkout: Path) -> Run:
    """Runs a script of the checkout and gives what it ended with."""

    def run_script(script: str, *arguments: str, checked: bool = True, **settings: str):
        environ = {**os.environ, "CALLS": str(checkout / "calls"), "PIXDLM_PYTHON": sys.executable, **settings}
        for name in ("NPROC", "HOSTFILE", "PIXDLM_CHECKED", "PYTHONPATH"):
            if name not in settings:
                environ.pop(name, None)
        if checked:  # spare the seconds that looking takes
            environ["PIXDLM_CHECKED"] = f"{checkout}|{sys.executable}|{sys.executable}"
        command = ["bash", str(checkout / script), *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, cwd=checkout.parent)

    return run_script


def calls(checkout: Path) -> list[list]:
    path = checkout / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_train_mini_draws_its_data_trains_evaluates_and_controls(checkout: Path, run: Run) -> None:
    ended = run("train.sh", "mini", "--epochs", "2", "--note", "two words")
    assert ended.returncode == 0, ended.stderr
    data = ["--data", "data/DRSeg-mini"]
    evaluation = ["--model", "runs/mini/best", *data, "--split", "test"]
    assert calls(checkout) == [
        ["train.py", ["--config", "mini", *data, "--run-dir", "runs/mini", "--epochs", "2", "--note", "two words"]],
        ["eval.py", [*evaluation, "--out", "runs/mini/eval", "--controls"]],
    ]
    assert (checkout / "data/DRSeg-mini/labels").is_dir()


def test_train_without_a_name_is_native_and_draws_nothing(checkout: Path, run: Run) -> None:
    assert run("train.sh", "--epochs", "1").returncode == 0
    assert calls(checkout)[0] == [
        "train.py",
        ["--config", "native", "--data", "data/DRSeg", "--run-dir", "runs/native", "--epochs", "1"],
    ]
    assert not (checkout / "data").exists()


@pytest.mark.parametrize("given", [["--data", "/some where/else"], ["--data=/some where/else"]])
def test_given_data_and_folder_hold_for_the_evaluation_too(checkout: Path, run: Run, given: list[str]) -> None:
    assert run("train.sh", "mini", *given, "--run_dir", "runs/x", *READING).returncode == 0
    for name, arguments in calls(checkout):
        if name == "eval.py":
            assert (
                arguments[:2] == ["--model", "runs/x/best"] and "runs/x/eval" in arguments[arguments.index("--out") + 1]
            )
            assert arguments[arguments.index("--data") + 1] == "/some where/else"
            assert " ".join(READING) in " ".join(arguments)
        else:  # argparse takes the last of several
            assert arguments[6:] == [*given, "--run_dir", "runs/x", *READING]
    assert not (checkout / "data").exists()


@pytest.mark.parametrize(
    ("given", "shared_out"),
    [([], ""), (["--zero-stage", "2"], ""), (["--zero-stage=3"], "--shard"),
     (["--zero_stage", "3", "--offload", "all"], "--shard --offload")],
)  # fmt: skip
def test_a_model_that_was_shared_out_in_training_is_in_evaluation(
    checkout: Path, run: Run, given: list[str], shared_out: str
) -> None:
    ended = run("train.sh", "mini", *given)
    assert ended.returncode == 0
    (evaluation,) = (arguments for name, arguments in calls(checkout) if name == "eval.py")
    assert " ".join(re.findall(r"--(?:shard|offload)\b", " ".join(evaluation))) == shared_out
    # which eval.py refuses together, as shards are gathered for one teacher-forced pass a batch
    assert ("--controls" in evaluation) == (not shared_out) == ("No controls" not in ended.stderr)
    assert ("--reasoning none" in " ".join(evaluation)) == bool(shared_out)
    parse_eval(evaluation)


def test_a_mixture_is_evaluated_on_each_of_its_data_sets(checkout: Path, run: Run) -> None:
    data = "--data=near=drseg:a,far=coco:b"
    assert run("train.sh", "mini", "--train", "near:3,far@all:0.5,near@val", data).returncode == 0
    (train, evaluation) = (arguments for _, arguments in calls(checkout))
    assert ["--train", "near:3,far@all:0.5,near@val", data] == train[-3:]
    assert evaluation[evaluation.index("--benchmarks") + 1] == "far,near" and "--split" not in evaluation
    assert evaluation[evaluation.index("--data") + 1] == "near=drseg:a,far=coco:b"
    parse_eval(evaluation)


def test_a_mixture_without_folders_is_told(checkout: Path, run: Run) -> None:
    ended = run("train.sh", "mini", "--train", "near:3")
    assert ended.returncode == 2 and "--train near:3: name the folders" in ended.stderr and calls(checkout) == []


def test_benchmarks_need_no_data(checkout: Path, run: Run) -> None:
    assert run("eval.sh", "--model", "m", "--benchmarks", "all").returncode == 0
    (checkout / "runs/own/best").mkdir(parents=True)
    assert run("eval.sh", "own", "--benchmarks", "all").returncode == 0
    assert run("eval.sh", "mini", "--benchmarks", "mini").returncode == 0
    assert [arguments for _, arguments in calls(checkout)] == [
        ["--model", "m", "--benchmarks", "all"],
        ["--model", "runs/own/best", "--out", "runs/own/benchmarks", "--benchmarks", "all"],
        [
            *("--model", "PixDLM/mini", "--data", "mini=drseg:data/DRSeg-mini"),
            *("--out", "runs/mini-released/benchmarks", "--benchmarks", "mini"),
        ],
    ]


def test_a_missing_test_split_is_told_before_training(checkout: Path, run: Run) -> None:
    labels = checkout / "data/mine/labels"
    labels.mkdir(parents=True)
    ended = run("train.sh", "mini", "--data", "data/mine")
    assert ended.returncode == 2 and "labels/DRSeg_test.json: no such split" in ended.stderr
    assert calls(checkout) == []
    (labels / "DRSeg_test.json").touch()
    assert run("train.sh", "mini", "--data", "data/mine").returncode == 0


@pytest.mark.parametrize(("failing", "count"), [("TRAIN", 1), ("EVAL", 2)])
def test_the_first_failure_ends_training_with_its_status(checkout: Path, run: Run, failing: str, count: int) -> None:
    assert run("train.sh", "mini", **{f"STATUS_{failing}": "2"}).returncode == 2
    assert len(calls(checkout)) == count


def test_a_killed_process_is_told(checkout: Path, run: Run) -> None:
    ended = run("train.sh", "mini", STATUS_TRAIN="137")
    assert ended.returncode == 137 and "ended with status 137" in ended.stderr


def test_eval_names_and_arguments(checkout: Path, run: Run) -> None:
    (checkout / "runs/night/best").mkdir(parents=True)
    for arguments in (["mini", "--overlays", "8"], ["night"], ["--model", "m", "--data", "d"]):
        assert run("eval.sh", *arguments).returncode == 0
    mini = ["--model", "PixDLM/mini", "--data", "data/DRSeg-mini", "--split", "test"]
    night = ["--model", "runs/night/best", "--data", "data/DRSeg", "--split", "test", "--out", "runs/night/eval"]
    assert calls(checkout) == [
        ["eval.py", [*mini, "--out", "runs/mini-released/eval", "--overlays", "8"]],
        ["eval.py", night],
        ["eval.py", ["--model", "m", "--data", "d"]],
    ]
    assert (checkout / "data/DRSeg-mini").is_dir()
    assert run("eval.sh", "mini", STATUS_EVAL="2").returncode == 2


def test_eval_of_an_unknown_name_says_so_first(checkout: Path, run: Run) -> None:
    ended = run("eval.sh", "nihgt", "--data", "data/DRSeg-mini")
    assert not (checkout / "data/DRSeg-mini").exists()
    assert ended.returncode == 2 and "nihgt: there is no runs/nihgt/best" in ended.stderr
    assert run("eval.sh", "nihgt", "--model", "m").returncode == 0
    assert len(calls(checkout)) == 1


def test_help_is_the_scripts_and_starts_nothing(checkout: Path, run: Run) -> None:
    for script in ("train", "eval"):
        assert run(f"{script}.sh", "mini", "--help").returncode == 0
    assert calls(checkout) == [["train.py", ["--help"]], ["eval.py", ["--help"]]]
    assert not (checkout / "data").exists()


def test_settings_that_cannot_be_end_with_2(checkout: Path, run: Run) -> None:
    for settings, message in (
        ({"NPROC": "none"}, "NPROC is 'none'"),
        ({"HOSTFILE": "/no/hosts"}, "/no/hosts: no such hostfile"),
    ):
        ended = run("train.sh", "mini", **settings)
        assert ended.returncode == 2 and message in ended.stderr and "Traceback" not in ended.stderr
    ended = run("train.sh", "mini", checked=False, PIXDLM_PYTHON="/no/python")
    assert ended.returncode == 2 and "PIXDLM_PYTHON=/no/python does not run" in ended.stderr
    assert calls(checkout) == [] and not (checkout / ".venv").exists()


def interpreter(path: Path, version: str, modules: bool = True) -> str:
    """A stand-in for a Python of `version`, with or without the modules that make environments."""
    path.write_text(
        f'#!/bin/sh\ncase "$2" in *version_info*) echo {version} ;; *) exit {0 if modules else 1} ;; esac\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("version", "modules", "message"),
    [
        ("3.9", True, "is Python 3.9; 3.10 to 3.12 is needed"),
        ("2.7", True, "is Python 2.7; 3.10 to 3.12 is needed"),
        ("3.13", False, "is Python 3.13; 3.10 to 3.12 is needed"),
        ("3.11", False, "its venv or ensurepip module is missing"),
    ],
)
def test_interpreters_that_no_environment_can_be_made_from(
    checkout: Path, run: Run, version: str, modules: bool, message: str
) -> None:
    python = interpreter(checkout / "python", version, modules)
    ended = run("eval.sh", "mini", checked=False, PIXDLM_PYTHON=python)
    assert ended.returncode == 2 and message in ended.stderr
    assert calls(checkout) == []


def make_wheel(folder: Path, name: str, version: str, code: str = "", source: Path | None = None) -> None:
    """Write a wheel of a module with `code`, or of the package in the folder `source`."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {f"{name}.py": code}
    if source:
        files = {f"{name}/{path.relative_to(source)}": path.read_text() for path in source.rglob("*.py")}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(path, content)


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder of stand-ins for all that the checkout's requirements.txt asks for, but sam2."""
    folder = tmp_path / "wheels"
    for name, version in (("setuptools", "99"), ("wheel", "99"), ("torchvision", "0.26.0")):
        make_wheel(folder, name, version)
    make_wheel(folder, "torch", "2.11.0", FAKE_TORCH)
    import packaging

    make_wheel(folder, "packaging", metadata.version("packaging"), source=Path(packaging.__file__).parent)
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """An environment with nothing in it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True, timeout=120)
    return tmp_path / "bare"


def contents(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_an_environment_is_made_once_and_an_interrupted_one_completed(
    checkout: Path, run: Run, wheels: Path, bare: Path
) -> None:
    before = contents(bare)
    (checkout / "torch.py").unlink()
    settings = {
        "PIXDLM_PYTHON": str(bare / "bin" / "python"),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": wheels.as_uri(),
        "PIP_CONFIG_FILE": os.devnull,
    }
    # sam2 cannot be had, as when the network goes: said, and not taken for finished
    ended = run("train.sh", "mini", checked=False, **settings)
    assert ended.returncode == 2 and "packaging is not installed" in ended.stderr
    assert "did not finish" in ended.stderr and calls(checkout) == []
    make_wheel(wheels, "sam2", "1.1.0")
    ended = run("train.sh", "mini", checked=False, **settings)
    assert ended.returncode == 0, ended.stderr
    assert "sam2-1.1.0" in ended.stderr.splitlines()[-2] and "Installed." in ended.stderr
    assert "Successfully installed torch" not in ended.stderr and len(calls(checkout)) == 2
    # one that was not finished is gone over again, whatever its packages say of themselves
    (checkout / ".venv/.made-by-pixdlm").write_text("installing\n")
    assert "Installed." in run("eval.sh", "mini", checked=False, **settings).stderr
    # from then on it is used as it is
    installed = contents(checkout / ".venv")
    ended = run("eval.sh", "mini", checked=False, **settings)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    assert contents(checkout / ".venv") == installed and contents(bare) == before
    # a pair that does not import together satisfies every range
    for path in (checkout / ".venv").rglob("torchvision.py"):
        path.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    ended = run("eval.sh", "mini", checked=False, **settings)
    assert ended.returncode == 2 and "nms does not exist" in ended.stderr and "one build" in ended.stderr


def test_an_environment_that_is_not_ours_is_left_alone(checkout: Path, run: Run, bare: Path) -> None:
    shutil.copytree(bare, checkout / ".venv", symlinks=True)
    before = contents(checkout / ".venv")
    ended = run("eval.sh", "mini", checked=False, PIXDLM_PYTHON=str(bare / "bin" / "python"))
    assert ended.returncode == 2 and "was not made by this script" in ended.stderr
    assert contents(checkout / ".venv") == before


def test_the_active_python_is_used_when_it_has_everything(checkout: Path, run: Run) -> None:
    shutil.copy(CHECKOUT / "requirements.txt", checkout)
    (checkout / "torch.py").unlink()
    (checkout / "utils" / "torchvision.py").write_text("raise ImportError('a module of ours is not the package')")
    ended = run("eval.sh", "mini", checked=False)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    assert not (checkout / ".venv").exists()


def test_the_tests_run_in_the_same_environment_offline(checkout: Path, run: Run) -> None:
    (checkout / "tests/test_it.py").write_text(
        "import os\n\ndef test_it():\n"
        "    assert os.environ['HF_HUB_OFFLINE'] == '1' and not os.environ['CUDA_VISIBLE_DEVICES']\n"
    )
    (checkout / "pyproject.toml").write_text('[tool.pytest.ini_options]\ntestpaths = ["tests"]\n')
    environ = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "0"}
    ended = run("tests/run.sh", "-p", "no:cacheprovider", **environ)
    assert ended.returncode == 0 and ended.stdout.strip().splitlines()[-1].startswith("1 passed"), ended.stdout
    assert run("tests/run.sh", "-k", "nothing", **environ).returncode == 5


HEEDING = """
import os, signal, sys, time

def leave(number, frame):
    open(os.environ["CALLS"], "a").write(f"[{number}]\\n")
    time.sleep(0.5)  # a state is written
    sys.exit(128 + number)

for one in (signal.SIGTERM, signal.SIGINT):
    signal.signal(one, leave)
open(os.environ["CALLS"], "a").write("[0]\\n")
time.sleep(60)
"""


def heed_sigint() -> None:
    """Where the tests themselves are started with `&`, it is ignored by all that they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_run_and_is_waited_for(checkout: Path, number: signal.Signals) -> None:
    (checkout / "train.py").write_text(HEEDING)
    environ = {**os.environ, "CALLS": str(checkout / "calls"), "PIXDLM_PYTHON": sys.executable}
    environ["PIXDLM_CHECKED"] = f"{checkout}|{sys.executable}|{sys.executable}"
    shell = subprocess.Popen(
        ["bash", "train.sh", "mini"],
        env=environ,
        cwd=checkout,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_sigint,
    )
    while calls(checkout) != [[0]] and shell.poll() is None:
        time.sleep(0.05)
    shell.send_signal(number)
    assert shell.wait(timeout=20) == 128 + number, shell.stderr.read()
    assert calls(checkout) == [[0], [number]]  # and nothing is evaluated
    shell.stderr.close()


@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="not a clone")
def test_scripts_run_in_a_clone_that_git_makes_for_windows(tmp_path: Path) -> None:
    clone = ["git", "clone", "--quiet", "--no-local", "-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run([*clone, str(CHECKOUT), str(tmp_path / "clone")], check=True, timeout=120)
    listed = subprocess.run(["git", "ls-files"], cwd=tmp_path / "clone", capture_output=True, text=True, check=True)
    scripts = [name for name in listed.stdout.splitlines() if name.endswith(".sh") or name == ".ci/run"]
    assert len(scripts) >= 7
    for name in scripts:
        ended = subprocess.run(["bash", "-n", name], cwd=tmp_path / "clone", capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
    for name in listed.stdout.splitlines():
        if (CHECKOUT / name).suffix in (".sh", ".py", ".json", ".md", ".txt", ".toml", ".log"):
            assert b"\r\n" not in (tmp_path / "clone" / name).read_bytes(), name
    state = subprocess.run(["git", "status", "--short"], cwd=tmp_path / "clone", capture_output=True, text=True)
    assert state.stdout == ""
