"""utils.runtime.machine: what numbers were made on and with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from utils.runtime import machine as module
from utils.runtime.machine import code_version, machine, package_version


def test_hardware_and_versions_are_told() -> None:
    found = machine(torch.device("cpu"))
    assert found["cpu"] and found["cores"] >= 1 and found["gpu"] is None and found["threads"] == torch.get_num_threads()
    assert found["versions"]["torch"]
    assert package_version("no-such-package") is None


def test_the_code_version_is_the_commit_and_says_whether_files_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_version() is None

    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.check_output(["git", *identity, *arguments], cwd=tmp_path, text=True).strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")[:12]
    assert code_version() == commit
    (tmp_path / "file").write_text("2")
    assert code_version() == f"{commit}-dirty"


def test_without_git_the_code_version_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert code_version() is None
