"""How long a teacher may be missing, and what is said of it; time is a number."""

from __future__ import annotations

import logging

import pytest

from trainer.common.errors import TeacherUnavailable
from trainer.teacher_client.patience import WARN_AFTER_S, Patience


def missing(patience: Patience, now_s: float) -> TeacherUnavailable | None:
    return patience.on_missing("dialogue", now_s, "its stream is not open yet", "")


def test_teacher_that_comes_while_streams_open_is_no_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    patience = Patience(60.0)
    with caplog.at_level(logging.WARNING):
        assert missing(patience, 100.0) is None
        assert missing(patience, 100.0 + WARN_AFTER_S / 2) is None
        patience.on_served("dialogue")
        assert missing(patience, 200.0) is None
    assert caplog.messages == []


def test_teacher_that_stays_away_is_warned_of_once_each_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    patience = Patience(60.0)
    told = "no dialogue teacher answers (its stream is not open yet); waiting up to 60 s"
    with caplog.at_level(logging.WARNING):
        for now_s in (0.0, WARN_AFTER_S, 30.0, 60.0):
            assert missing(patience, now_s) is None
        assert caplog.messages == [told]
        patience.on_served("dialogue")
        for now_s in (100.0, 130.0):
            assert missing(patience, now_s) is None
    assert caplog.messages == [told, told]


def test_patience_ends_with_what_was_tried_last() -> None:
    patience = Patience(60.0)
    assert missing(patience, 0.0) is None
    assert missing(patience, 60.0) is None
    error = missing(patience, 60.1)
    assert str(error).startswith("no dialogue teacher answered for 60 s (the last: its stream is")
