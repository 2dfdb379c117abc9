"""utils.cli.check_environment: what it finds amiss in an interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import CHECKOUT
from utils.cli.check_environment import broken_imports, unmet, wanted_lines


def test_requirements_are_read_without_comments_and_options() -> None:
    text = "# a\n\ntorch>=2.11  # why\n--find-links here\ntqdm\n"
    assert wanted_lines(text) == ["torch>=2.11", "tqdm"]


def test_this_projects_requirements_are_met_by_what_runs_its_tests() -> None:
    assert unmet(wanted_lines((CHECKOUT / "requirements.txt").read_text())) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("no-such-thing>=1", "no-such-thing is not installed (wanted: no-such-thing>=1)"),
        ("tqdm>=1000", "is installed (wanted: tqdm>=1000)"),
        ("tqdm<1", "is installed (wanted: tqdm<1)"),
    ],
)
def test_what_is_lacking_is_named(line: str, problem: str) -> None:
    (found,) = unmet([line, "tqdm>=4"])
    assert problem in found


def test_requirements_of_other_systems_do_not_count() -> None:
    assert unmet(["no-such-thing; python_version < '3'"]) == []


def test_a_package_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mismatched_vision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    (problem,) = broken_imports(("json", "mismatched_vision", "never_reached"))
    assert "mismatched_vision" in problem and "nms does not exist" in problem


def test_an_interpreter_without_anything(tmp_path: Path) -> None:
    """Run as utils/cli/environment.sh runs it; modules beside the script do not pass for packages."""
    (tmp_path / "requirements.txt").write_text("torch>=2.11\n")
    script = CHECKOUT / "utils" / "cli" / "check_environment.py"
    command = [sys.executable, "-S", "-E", str(script), str(tmp_path / "requirements.txt")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "not installed" in ended.stdout and not ended.stderr
