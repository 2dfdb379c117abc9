"""utils.datasets.registry: data sets by name."""

from __future__ import annotations

import pytest

from utils.datasets.registry import load_dataset
from utils.runtime.errors import UserError


def test_an_unknown_data_set_is_named() -> None:
    with pytest.raises(UserError, match="unknown data set 'coco'; known are drseg"):
        load_dataset("data", "test", name="coco")
