"""The store of targets: keys, and what several processes may do to one folder."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from protos import version
from tests.support.caches import GROUP, MAX_BYTES, compression, described
from trainer.common.errors import MachineError
from trainer.data.model_input import RowRange, SequenceInput
from trainer.target_cache.keys import KEY_BYTES, Group, RequestKeys, field_bytes
from trainer.target_cache.store import TargetCache


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


INPUT = SequenceInput.at_end(num_rows=2, tokens=ids(1, 2, 3), entities=ids(4), words=ids(5))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[TargetCache]:
    cache = TargetCache(tmp_path / "cache", max_bytes=MAX_BYTES)
    yield cache
    cache.close()


def test_key_is_the_same_for_every_replica_and_for_columns_that_are_not_sent() -> None:
    key = RequestKeys(GROUP).key(INPUT)
    assert len(key) == KEY_BYTES
    other_replica = Group.of(described(replica_id="two"), compression())
    # max_words is 0: this teacher is sent no words.
    assert RequestKeys(other_replica).key(dataclasses.replace(INPUT, words=ids(7, 8))) == key


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "recommendation"},
        {"vocabulary_digest": "vocabulary-b"},
        {"vocab_size": 13},
        {"graph_digest": "graph-b"},
        {"weights_digest": "weights-b"},
        {"temperature": 1.5000001},
        {"dtype": "bf16"},
        {"max_tokens": 15},
        {"max_entities": 5},
        {"max_words": 1},
    ],
    ids=str,
)
def test_key_changes_with_the_teacher(change: dict[str, Any]) -> None:
    other = Group.of(described(**change), compression())
    assert RequestKeys(other).key(INPUT) != RequestKeys(GROUP).key(INPUT)


@pytest.mark.parametrize("change", [{"top_k": 6}, {"top_p": 0.96}, {"values": 2}], ids=str)
def test_key_changes_with_the_compression(change: dict[str, Any]) -> None:
    other = Group.of(described(), compression(**change))
    assert RequestKeys(other).key(INPUT) != RequestKeys(GROUP).key(INPUT)


@pytest.mark.parametrize(
    "change",
    [
        {"ranges": (RowRange(2, 1),)},
        {"ranges": (RowRange(0, 2),)},
        {"ranges": (RowRange(1, 1), RowRange(2, 1))},
        {"tokens": ids(1, 2)},
        {"tokens": ids(1, 2, 4)},
        {"entities": ids()},
        # The same ids, of which one has changed columns.
        {"tokens": ids(1, 2), "entities": ids(3, 4)},
    ],
    ids=str,
)
def test_key_changes_with_what_is_sent(change: dict[str, Any]) -> None:
    request = RequestKeys(GROUP)
    assert request.key(dataclasses.replace(INPUT, **change)) != request.key(INPUT)


@pytest.mark.parametrize(
    ("change", "content"),
    [
        ({}, "0805153333733f1803"),
        ({"top_k": 300, "top_p": 0.0, "values": 0}, "08ac02"),
        ({"top_k": 0, "samples": 64, "seed": 1 << 63}, "153333733f180320402880808080808080808001"),
    ],
)
def test_numbers_of_a_cut_are_written_as_in_every_version_of_protobuf(
    change: dict[str, Any], content: str
) -> None:
    cut = compression(**change)
    assert field_bytes(cut).hex() == content
    assert field_bytes(cut) == cut.SerializeToString(deterministic=True)


def test_cache_that_a_process_of_another_container_has_open_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise lmdb.LockError("Resource temporarily unavailable")

    monkeypatch.setattr(lmdb, "open", refuse)
    with pytest.raises(MachineError, match=r"our process id .*containers with --pid=host"):
        TargetCache(tmp_path / "cache", max_bytes=MAX_BYTES)


def test_key_changes_with_the_version_of_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "WIRE_VERSION", version.WIRE_VERSION + 1)
    assert RequestKeys(Group.of(described(), compression())).key(INPUT) != RequestKeys(GROUP).key(
        INPUT
    )


def test_group_comes_back_from_its_record() -> None:
    again = Group.from_json(GROUP.to_json(), GROUP.group_id)
    assert again.digest == GROUP.digest
    assert again.limits == GROUP.limits
    assert again.description.replica_id == ""


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"description": {"kind": 1}, "compression": {}}']
)
def test_group_of_a_broken_record_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a Description and a Compression"):
        Group.from_json(text, GROUP.group_id)
    with pytest.raises(ValueError, match="its own record"):
        Group.from_json(GROUP.to_json(), b"another!")


def test_group_of_a_later_release_is_known_by_its_id() -> None:
    record = json.loads(GROUP.to_json())
    record["description"]["fieldOfALaterRelease"] = 1
    assert Group.from_json(json.dumps(record), GROUP.group_id).digest == GROUP.digest
    record["description"]["weightsDigest"] = "others"
    with pytest.raises(ValueError, match="its own record"):
        Group.from_json(json.dumps(record), GROUP.group_id)


def test_cache_keeps_what_was_written_first(cache: TargetCache) -> None:
    assert cache.put(GROUP, {b"a": b"1", b"b": b"2"}, {}) == {}
    assert cache.put(GROUP, {b"a": b"other", b"c": b"3"}, {}) == {b"a": b"1"}
    assert cache.get([b"a", b"b", b"c", b"d"]) == [b"1", b"2", b"3", None]
    with cache.snapshot() as now:
        # Written meanwhile: not of this moment.
        cache.put(GROUP, {b"bb": b"4"}, {})
        assert now.num_entries == 3
        assert list(now.entries) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
        assert list(now.records) == [GROUP.group_id]


def test_cache_replaces_a_broken_value_and_no_other(cache: TargetCache) -> None:
    cache.put(GROUP, {b"a": b"broken", b"b": b"mended meanwhile"}, {})
    broken = {b"a": b"broken", b"b": b"broken too"}
    assert cache.put(GROUP, {b"a": b"new", b"b": b"new"}, broken) == {b"b": b"mended meanwhile"}
    assert cache.get([b"a", b"b"]) == [b"new", b"mended meanwhile"]


def test_cache_that_is_full_keeps_what_it_has_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = TargetCache(tmp_path / "cache", max_bytes=1 << 18)
    rng = np.random.default_rng(0)
    values = {bytes([n]) * KEY_BYTES: rng.bytes(1 << 12) for n in range(80)}
    with caplog.at_level(logging.WARNING):
        written = [cache.put(GROUP, {key: value}, {}) for key, value in values.items()]
    assert written[0] == {}
    assert written[-1] is None
    assert cache.is_full
    assert 1 << 17 < cache.num_bytes <= 1 << 18
    assert len([it for it in caplog.records if "is full" in it.message]) == 1
    found = cache.get(list(values))
    for value, there, result in zip(values.values(), found, written, strict=True):
        assert there == (value if result == {} else None)
    cache.close()
    # The same folder with more room goes on.
    cache = TargetCache(tmp_path / "cache", max_bytes=MAX_BYTES)
    assert cache.put(GROUP, {b"more": b"value"}, {}) == {}
    cache.close()


def test_cache_knows_the_teachers_that_a_student_could_ask(cache: TargetCache) -> None:
    def known(kind: str) -> list[Group]:
        return cache.known(kind, compression(), vocabulary="vocabulary-a", graph="graph-a")

    assert known("dialogue") == []
    cache.put(GROUP, {b"a": b"1"}, {})
    others = (
        Group.of(described(weights_digest="weights-b"), compression(top_k=9)),
        Group.of(described(vocabulary_digest="vocabulary-b"), compression()),
        Group.of(described(graph_digest="graph-b"), compression()),
    )
    for number, group in enumerate(others):
        cache.put(group, {bytes([number]): b"1"}, {})
    (found,) = known("dialogue")
    assert found.digest == GROUP.digest
    assert known("recommendation") == []
    cache.put(Group.of(described(weights_digest="weights-c"), compression()), {b"c": b"1"}, {})
    assert len(known("dialogue")) == 2


def test_cache_keeps_the_record_of_a_group_beside_one_of_other_limits(cache: TargetCache) -> None:
    cache.put(GROUP, {b"a": b"1"}, {})
    cache.put(Group.of(described(max_tokens=8), compression()), {b"b": b"1"}, {})
    found = cache.known("dialogue", compression(), vocabulary="vocabulary-a", graph="graph-a")
    assert sorted(group.limits.max_tokens for group in found) == [8, 16]


def test_cache_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="must be a cache of targets"):
        TargetCache(tmp_path, max_bytes=MAX_BYTES, must_exist=True)
    (tmp_path / "data.mdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(OSError, match="must be a cache of targets on a local disk"):
        TargetCache(tmp_path, max_bytes=MAX_BYTES)


def test_cache_whose_disk_refuses_is_told_once_and_never_fails(
    cache: TargetCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put(GROUP, {b"a": b"1"}, {})

    def refuse(*_: Any) -> dict[bytes, bytes]:
        raise lmdb.DiskError("no space left on device")

    monkeypatch.setattr(cache, "_put", refuse)
    with caplog.at_level(logging.WARNING):
        assert cache.put(GROUP, {b"b": b"1"}, {}) is None
        assert cache.put(GROUP, {b"c": b"1"}, {}) is None
    assert len(caplog.records) == 1
    assert "no space left" in caplog.text
    assert cache.get([b"a"]) == [b"1"]


def test_cache_of_another_wire_version_is_left_alone_and_says_so(
    cache: TargetCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = Group.of(described(), compression())
    cache.put(earlier, {earlier.group_id + bytes(KEY_BYTES - 8): b"1"}, {})
    monkeypatch.setattr(version, "WIRE_VERSION", version.WIRE_VERSION + 1)
    with caplog.at_level(logging.WARNING):
        found = cache.known("dialogue", compression(), vocabulary="vocabulary-a", graph="graph-a")
    assert found == []
    assert "those of wire version 1, for this release has 2. Delete the folder" in caplog.text
