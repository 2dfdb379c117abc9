"""utils.demo.visit: a picture is encoded once, and what a visitor keeps is only theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from model.masks import MASK_COLOURS
from model.pixdlm import PixDLMForCausalLM
from utils.demo import sessions
from utils.demo.service import Service
from utils.demo.visit import Visits


async def opened(visits: Visits, session: str, picture: Path) -> None:
    async for _ in visits.open(session, picture.read_bytes(), picture.name):
        pass


async def asked(visits: Visits, session: str, question: str) -> None:
    async for _ in visits.ask(session, question):
        pass


def test_a_picture_is_encoded_once_or_again_when_it_was_forgotten(
    make_service: Callable[..., Service], picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, encoded = PixDLMForCausalLM.encode_images, []
    monkeypatch.setattr(
        PixDLMForCausalLM, "encode_images", lambda self, batch: encoded.append(1) or encode(self, batch)
    )
    visits = Visits(make_service())

    async def visit() -> None:
        await opened(visits, "a", picture)
        for question in ("Mark the yellow car.", "Where is the road?"):
            await asked(visits, "a", question)
        assert len(encoded) == 1
        monkeypatch.setattr(sessions, "ENCODED", 1)
        await opened(visits, "b", picture)
        await asked(visits, "a", "What is green?")
        assert len(encoded) == 3

    asyncio.run(visit())
    answers = visits.visitor("a").picture.answers
    assert [answer.number for answer in answers] == [1, 2, 3]
    assert [mask.colour for answer in answers for mask in answer.masks] == list(MASK_COLOURS[:3])
    assert visits.visitor("b").picture.answers == [] and len(visits.visitor("a").history) == 3
    visits.remove("a", 2)
    assert [answer.number for answer in visits.visitor("a").picture.answers] == [1, 3]
    visits.leave("a")
    assert visits.visitor("a").picture is None
