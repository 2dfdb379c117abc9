"""utils.demo.sessions: what is remembered of visitors has bounds."""

from __future__ import annotations

from typing import Any

import pytest

from utils.demo import sessions
from utils.demo.sessions import FeatureCache, KeptAnswer, OpenPicture, Visitors, picture_of
from utils.runtime.errors import UserError


def picture(size: int = 10) -> OpenPicture:
    return OpenPicture(b"x" * size, "a.jpg", "", 4, 3)


def test_quiet_visitors_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "VISITORS", 2)
    visitors = Visitors()
    for name in ("a", "b"):
        visitors[name].picture = picture()
    first = visitors["a"]
    visitors["c"].picture = picture()
    assert len(visitors) == 2 and visitors["a"] is first
    with pytest.raises(UserError, match="drop one, or choose an example"):
        picture_of(visitors["b"])


def test_pictures_have_a_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PICTURES_BYTES", 25)
    visitors = Visitors()
    for name in ("a", "b", "c"):
        visitors[name].picture = picture()
    assert visitors["c"].picture and len(visitors) == 2
    visitors.forget("c")
    assert visitors["c"].picture is None


def test_answers_and_history_have_a_bound() -> None:
    visitor = Visitors()["a"]
    visitor.picture = picture()
    for number in range(60):
        visitor.picture.keep(KeptAnswer(number, "Q?", "", {}, []))
        visitor.remember(f"Q{number}?", "")
    assert [one.number for one in visitor.picture.answers] == list(range(48, 60))
    assert len(visitor.history) == 50 and visitor.history[-1] == ("a.jpg", "Q59?", "")


def test_features_have_a_bound_and_belong_to_one_picture() -> None:
    cache, pictures = FeatureCache(), [picture() for _ in range(9)]
    for one in pictures[:8]:
        cache.put(one, features_of(one))
    assert cache.get(pictures[0]) == features_of(pictures[0])
    cache.put(pictures[8], features_of(pictures[8]))
    assert cache.get(pictures[1]) is None and cache.get(pictures[0]) is not None  # not the one asked about last
    cache.drop(pictures[0])
    assert cache.get(pictures[0]) is None
    cache.drop(None)


def features_of(one: OpenPicture) -> Any:
    return f"features {id(one)}"
