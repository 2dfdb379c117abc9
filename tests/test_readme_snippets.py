"""The Python of the READMEs runs as it stands there, about a drawn picture."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training import CHECKOUT

PICTURE = "data/DRSeg-mini/CODrone/DRtest/mini_test_0004.jpg"


def snippets(page: Path) -> list[str]:
    """The indented blocks of a page that begin with an import of this project."""
    blocks = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", page.read_text(), flags=re.MULTILINE)
    return [code for code in map(textwrap.dedent, blocks) if code.lstrip().startswith("from model import")]


@pytest.mark.parametrize("page", ["README.md", "utils/inference/README.md"])
def test_the_python_of_a_page(page: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = snippets(CHECKOUT / page)
    assert len(found) == 1
    (tmp_path / PICTURE).parent.mkdir(parents=True)
    Image.open(sorted(data.glob("CODrone/DRtest/*.jpg"))[0]).save(tmp_path / PICTURE)
    (tmp_path / "PixDLM").symlink_to(CHECKOUT / "PixDLM")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names: dict = {}
    exec(compile(found[0], page, "exec"), names)
    torch.set_num_threads(threads)
    answer = names["answer"]
    assert answer.masks.dtype == np.bool_ and answer.masks.shape[1:] == Image.open(PICTURE).size[::-1]
    if (tmp_path / "overlay.jpg").exists():
        assert names["piece"].question == "Which car is red?"
