"""utils.cli.launch: how many processes, where, and whose exit status comes out."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import CHECKOUT
from utils.cli import launch
from utils.runtime.errors import UserError

PROBE = """
import json, os, sys
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR", "OMP_NUM_THREADS")
place = os.path.join(sys.argv[1], os.environ.get("RANK", "alone"))
open(place, "w").write(json.dumps({name: os.environ.get(name) for name in names} | {"arguments": sys.argv[2:]}))
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(("nproc", "gpus", "count"), [("", 0, 1), ("", 4, 4), ("2", 4, 2), ("3", 0, 3)])
def test_process_count(nproc: str, gpus: int, count: int) -> None:
    assert launch.process_count({"NPROC": nproc}, gpus, ["eval.py"]) == count


@pytest.mark.parametrize(
    ("script", "cores", "count"),
    [
        ("train.py --config mini", 1, 1),
        ("train.py --config mini", 2, 2),
        ("train.py --config mini", 5, 4),
        ("train.py --config mini", 10, 8),
        ("train.py --config mini --grad-accumulation 4", 5, 3),
        ("train.py --config mini --global-batch 7", 4, 1),
        ("train.py --config mini --batch-size 24", 4, 1),
        ("train.py --config native", 4, 1),
        ("eval.py --model PixDLM/mini", 4, 1),
    ],
)
def test_a_global_batch_is_divided_among_the_cores(script: str, cores: int, count: int) -> None:
    assert launch.divided(script.split(), cores, or_else=1) == count


def test_gpus_that_do_not_divide_the_global_batch_are_left_idle() -> None:
    mini, native = ["train.py", "--config", "mini"], ["train.py", "--config", "native"]
    assert [launch.process_count({}, gpus, mini) for gpus in (1, 5, 8, 16)] == [1, 4, 8, 12]
    assert [launch.process_count({}, gpus, native) for gpus in (1, 5, 64)] == [1, 5, 64]
    assert launch.process_count({"NPROC": "5"}, 8, mini) == 5  # as asked


def test_a_containers_quota_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    monkeypatch.setattr(launch, "CPU_QUOTA", tmp_path / "cpu.max")
    found = []
    for text in ("200000 100000", "50000 100000", "max 100000", ""):
        (tmp_path / "cpu.max").write_text(text)
        found.append(launch.usable_cores())
    assert found == [2, 1, 64, 64]


@pytest.mark.parametrize(("nproc", "gpus"), [("0", 0), ("-1", 0), ("two", 0), ("1.5", 0), ("3", 2)])
def test_a_number_of_processes_that_cannot_be(nproc: str, gpus: int) -> None:
    with pytest.raises(UserError, match=f"NPROC is .*{nproc}"):
        launch.process_count({"NPROC": nproc}, gpus, ["eval.py"])


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [("", 2, ["0", "1"]), ("2, 3", 2, ["2", "3"]), ("GPU-a,GPU-b", 2, ["GPU-a", "GPU-b"]), ("1,-1,2", 1, ["1"])],
)
def test_gpus_keep_their_names(monkeypatch: pytest.MonkeyPatch, visible: str, count: int, names: list[str]) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert launch.visible_gpus({"CUDA_VISIBLE_DEVICES": visible}) == names


def test_several_processes_get_the_first_gpus_and_a_port_of_their_own() -> None:
    commands = [launch.local_command(["train.py", "--a"], 2, ["GPU-a", "GPU-b", "GPU-c"]) for _ in range(2)]
    values = [dict(word.split("=", 1) for word in each if word.startswith("--") and "=" in word) for each in commands]
    assert json.loads(base64.urlsafe_b64decode(values[0]["--world_info"])) == {"localhost": ["GPU-a", "GPU-b"]}
    assert values[0]["--master_port"] != values[1]["--master_port"]
    assert commands[0][-2:] == ["train.py", "--a"]


def test_cpu_processes_share_the_cores_and_users_settings_stay() -> None:
    environ: dict[str, str] = {}
    launch.set_defaults(environ, 2, gpus=0)
    assert environ == {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2))}
    environ = {"OMP_NUM_THREADS": "7", "DS_ACCELERATOR": "xpu"}
    launch.set_defaults(environ, 2, gpus=0)
    assert environ == {"OMP_NUM_THREADS": "7", "DS_ACCELERATOR": "xpu"}
    environ = {}
    launch.set_defaults(environ, 2, gpus=2)
    assert environ == {}


def test_hostfiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="none: no such hostfile"):
        launch.hostfile_command(["train.py"], tmp_path / "none", {})
    nodes = tmp_path / "nodes"
    nodes.write_text("# the lab\nworker-1 slots=8\nworker-2 slots=8\n")
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="reached by pdsh"):
        launch.hostfile_command(["train.py"], nodes, {})
    monkeypatch.setattr(launch.shutil, "which", lambda name: "/usr/bin/pdsh")
    command = launch.hostfile_command(["train.py", "--a"], nodes, {"NPROC": "4", "MASTER_PORT": "1234"})
    assert {f"--hostfile={nodes}", "--num_gpus=4", "--master_port=1234"} < set(command)
    assert command[-2:] == ["train.py", "--a"]


@pytest.mark.parametrize(("nproc", "status"), [(1, 2), (2, 2), (2, 0)])
def test_the_scripts_status_and_arguments_come_through(tmp_path: Path, nproc: int, status: int) -> None:
    probe = tmp_path / "probe.py"
    probe.write_text(PROBE)
    out = tmp_path / "out"
    out.mkdir()
    environ = {**os.environ, "NPROC": str(nproc), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "utils.cli.launch", str(probe), str(out), str(status), "--help", "two words"]
    ended = subprocess.run(command, env=environ, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == status, ended.stderr
    seen = [json.loads(path.read_text()) for path in sorted(out.iterdir())]
    assert all(each["arguments"] == [str(status), "--help", "two words"] for each in seen)
    if nproc == 2 and status == 0:  # a failing rank may end the other before it has written
        assert [each["RANK"] for each in seen] == ["0", "1"] and {each["WORLD_SIZE"] for each in seen} == {"2"}
    assert all(each["CUDA_VISIBLE_DEVICES"] in ("", "-1,-1") and each["DS_ACCELERATOR"] == "cpu" for each in seen)


@pytest.mark.parametrize("content", [b"", b"# none yet\n", "worker-1 slots=8".encode("utf-16"), b"w\xfcrker slots=1"])
def test_a_hostfile_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "nodes").write_bytes(content)
    with pytest.raises(UserError, match="nodes: no hostfile in UTF-8"):
        launch.hostfile_command(["train.py"], tmp_path / "nodes", {})
