"""demo.py as a user runs it, and the examples of its README."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import demo as script
from tests.training import CHECKOUT
from utils.runtime.errors import UserError, run_main

README = CHECKOUT / "utils/demo/README.md"
DEFAULT = "http://127.0.0.1:7860"


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """demo.py in a folder, with temporary files in the folder `tmp` there; its address and the process."""
    (folder / "tmp").mkdir()
    command = [sys.executable, str(CHECKOUT / "demo.py"), "--model", str(CHECKOUT / "PixDLM/mini"), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--device", "cpu", *arguments],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0], process
                break
        else:
            raise AssertionError("".join(said))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def example(beginning: str) -> str:
    """The example of the README that begins so."""
    blocks = re.findall(r"(?:^    .*\n)+", README.read_text(encoding="utf-8"), re.MULTILINE)
    (found,) = (textwrap.dedent(block) for block in blocks if block.lstrip().startswith(beginning))
    return found


def test_the_examples_of_the_readme(tmp_path: Path) -> None:
    for module in ("fastapi", "uvicorn", "python_multipart"):
        pytest.importorskip(module)
    shutil.copy(CHECKOUT / "tests/golden/DRSeg/CODrone/DRtest/golden_0.jpg", tmp_path / "photo.jpg")
    with started(tmp_path, "--api") as (address, process):
        code = example("import base64").replace(DEFAULT, address)
        ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        assert [line.rsplit(maxsplit=3)[0] for line in ran.stdout.splitlines()] == [
            "Which car is red?",
            "Where is the road?",
        ]
        if shutil.which("curl"):
            curl = example("curl").replace(DEFAULT, address)
            ran = subprocess.run(["bash", "-c", curl], cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert ran.returncode == 0 and '"question":"Which car is red?"' in ran.stdout
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143 and "Traceback" not in process.stderr.read()


def test_the_page_starts_without_the_drawn_set_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    from urllib.request import urlopen

    with started(tmp_path) as (address, process):
        assert list((tmp_path / "tmp").iterdir())
        page = urlopen(address, timeout=30).read().decode()
        assert "data-example" in page and urlopen(f"{address}/api/health", timeout=30).status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130 and "Traceback" not in process.stderr.read()
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize(
    ("without", "arguments", "message"),
    [
        ("gradio", [], "the page needs Gradio; install it (pip install gradio), or serve the API alone"),
        ("uvicorn", ["--api"], "install: pip install uvicorn"),
        ("", ["--auth", "anna"], "--auth: give a user and a password"),
    ],
)
def test_what_is_missing_is_asked_for(
    without: str, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(script, "find_spec", lambda name: None if name == without else True)
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    with pytest.raises(SystemExit) as left:
        run_main(script.main)
    said = capsys.readouterr().err
    assert left.value.code == 2 and said.startswith("error: ") and message in said


def test_a_port_that_is_taken_is_told() -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    from utils.demo.server import address_of, listen

    with listen("127.0.0.1", 0) as taken:
        port = int(address_of(taken).rpartition(":")[2])
        with pytest.raises(UserError, match=f"--port {port}: cannot listen there .* name another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match="--host 203.0.113.7"):
        listen("203.0.113.7", 0)
