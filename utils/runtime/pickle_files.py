"""One reader of pickles that others wrote: plain values alone, so that reading one never runs its code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from utils.runtime.errors import UserError, read_errors_as_user_error
from utils.runtime.json_files import CURE


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every class and function: lists, tuples, dicts, texts, numbers, truth values and None need none."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_plain_pickle(path: Path, cure: str = CURE) -> Any:
    """What a pickle of plain values holds.

    Texts that Python 2 wrote as bytes are read as UTF-8, all of a file as Latin-1 where they are not that.

    Raises:
        UserError: it is missing, may not be read, is damaged, or holds something else than plain values.
    """
    try:
        with read_errors_as_user_error(path):
            try:
                return _read(path, "utf-8")
            except UnicodeDecodeError:
                return _read(path, "latin-1")
    except UserError:
        raise
    except Exception as error:  # damaged bytes end in errors of many types
        if str(error).startswith("it asks for "):
            raise UserError(
                f"{path}: not read, because {error}; only lists, dicts, texts and numbers are, as anything else in a "
                "pickle may run code: take the published file, or save it again as plain values"
            ) from error
        raise UserError(f"{path}: no pickle, or a damaged one ({type(error).__name__}: {error}); {cure}") from error


def _read(path: Path, encoding: str) -> Any:
    with open(path, "rb") as file:
        return _PlainUnpickler(file, encoding=encoding).load()
