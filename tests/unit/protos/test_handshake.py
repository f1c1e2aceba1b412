"""The metadata in which a caller names the teacher that it expects."""

from __future__ import annotations

import pytest

from protos import version
from protos.handshake import handshake_metadata, handshake_mismatch
from protos.version import WIRE_VERSION
from tests.support.fake_teacher import DESCRIPTION, described


def test_handshake_keys_are_those_of_the_documentation() -> None:
    assert handshake_metadata(DESCRIPTION) == (
        ("conkd-vocabulary-digest", "vocabulary-a"),
        ("conkd-wire-version", str(WIRE_VERSION)),
        ("conkd-weights-digest", "weights-a"),
        ("conkd-temperature", "1.0"),
        ("conkd-dtype", "float32"),
    )


@pytest.mark.parametrize(
    "fields", [{}, {"weights_digest": ""}, {"temperature": 0.0}, {"dtype": ""}]
)
def test_handshake_with_the_teacher_that_is_served_agrees(fields: dict[str, str]) -> None:
    assert handshake_mismatch(handshake_metadata(described(**fields)), DESCRIPTION) == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocabulary_digest": "b"}, "vocabulary-digest must be vocabulary-a for this .* got b"),
        ({"weights_digest": "b"}, "weights-digest must be weights-a for this dialogue .* got b"),
        ({"dtype": "bf16"}, "dtype must be float32 for this dialogue teacher, got bf16"),
        ({"temperature": 2.0}, "temperature must be 1.0 for this dialogue teacher, got 2.0"),
    ],
)
def test_handshake_with_another_teacher_names_both_values(
    fields: dict[str, str], message: str
) -> None:
    mismatch = handshake_mismatch(handshake_metadata(described(**fields)), DESCRIPTION)
    with pytest.raises(ValueError, match=message):
        raise ValueError(mismatch)


def test_handshake_names_the_highest_common_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "WIRE_VERSION", 4)
    monkeypatch.setattr(version, "OLDEST_WIRE_VERSION", 2)
    for oldest, newest, agreed in ((1, 3, "3"), (3, 6, "4"), (0, 2, "2"), (0, 0, "4")):
        teacher = described(wire_version=newest, oldest_wire_version=oldest)
        assert dict(handshake_metadata(teacher))["conkd-wire-version"] == agreed


def test_server_takes_every_version_that_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "WIRE_VERSION", 3)
    monkeypatch.setattr(version, "OLDEST_WIRE_VERSION", 2)
    keys = dict(handshake_metadata(DESCRIPTION))
    for number in ("2", "3"):
        sent = keys | {"conkd-wire-version": number}
        assert handshake_mismatch(sent.items(), DESCRIPTION) == ""
    for number in ("1", "4", "two", "", "9" * 5000):
        sent = keys | {"conkd-wire-version": number}
        expected = f"conkd-wire-version must be 2 to 3 for this dialogue teacher, got {number}."
        assert handshake_mismatch(sent.items(), DESCRIPTION) == expected


@pytest.mark.parametrize("oldest", range(5))
@pytest.mark.parametrize("newest", range(5))
def test_common_version_is_the_highest_of_both_ranges(
    oldest: int, newest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(version, "WIRE_VERSION", 3)
    monkeypatch.setattr(version, "OLDEST_WIRE_VERSION", 2)
    theirs = range(oldest or newest, newest + 1)
    common = [number for number in (2, 3) if number in theirs]
    assert version.common_version(oldest, newest) == max(common, default=0)


def test_handshake_without_a_required_key_is_refused() -> None:
    sent = handshake_metadata(DESCRIPTION)
    assert handshake_mismatch(sent[:1], DESCRIPTION).endswith("got none.")
    assert handshake_mismatch(sent[1:], DESCRIPTION).endswith("got none.")


def test_handshake_with_a_temperature_that_is_no_number_is_refused() -> None:
    sent = (*handshake_metadata(described(temperature=0.0)), ("conkd-temperature", "warm"))
    assert "got warm" in handshake_mismatch(sent, DESCRIPTION)
