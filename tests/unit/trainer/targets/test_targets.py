"""`python -m trainer.targets`: verify, stats, export and import of a cache filled by a client."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from protos.codec import WireError
from tests.support.caches import corrupt
from tests.support.client_world import FakeTeacher, World, ask, client_of
from tests.support.same_bits import assert_same_bits
from trainer.config.distill import DistillConfig
from trainer.config.named_teachers import NamedTeacher
from trainer.config.run import RunConfig
from trainer.config.teachers import MAX_CACHE_BYTES, TeachersConfig
from trainer.target_cache.keys import Group
from trainer.target_cache.store import TargetCache
from trainer.targets.__main__ import main
from trainer.targets.build import build

MAX_BYTES = 1 << 26


@pytest.fixture
def folder(world: World, tmp_path: Path) -> Iterator[Path]:
    """Three dialogue targets of 2, 3 and 4 rows; one recommendation target of all examples."""
    folder = tmp_path / "cache"
    world.add("d", FakeTeacher("dialogue", kept_mass=0.75))
    world.add("r", FakeTeacher("recommendation", kept_mass=0.5))
    one_entry = DistillConfig(values="float32", top_k=1, recommendation_top_k=1)
    client = client_of(world, folder, one_entry)
    try:
        ask(client, 2, 3, 4)
    finally:
        client.close()
    yield folder


def contents(folder: Path) -> dict[bytes, bytes]:
    cache = TargetCache(folder, max_bytes=MAX_BYTES, must_exist=True)
    try:
        with cache.snapshot() as now:
            return {**dict(now.entries), **{k: v.encode() for k, v in now.records.items()}}
    finally:
        cache.close()


def corrupt_one(folder: Path) -> str:
    cache = TargetCache(folder, max_bytes=MAX_BYTES)
    with cache.snapshot() as now:
        key, _ = next(now.entries)
    corrupt(cache, key)
    cache.close()
    return key.hex()


def test_stats_counts_targets_by_teacher(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["stats", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    dialogue, recommendation = found["groups"]
    assert (found["targets"], found["broken"]) == (4, 0)
    assert (dialogue["kind"], dialogue["targets"], dialogue["rows"]) == ("dialogue", 3, 9)
    assert (dialogue["weights_digest"], dialogue["dtype"]) == ("weights-dialogue", "float32")
    assert dialogue["cut"] == "top_k=1 top_p=1 float32"
    assert (recommendation["targets"], recommendation["rows"]) == (1, 1)
    assert (dialogue["mean_kept_mass"], recommendation["mean_kept_mass"]) == (0.75, 0.5)
    assert dialogue["bytes_per_row"] == dialogue["bytes"] / 9
    assert found["disk_bytes"] >= dialogue["bytes"] + recommendation["bytes"]
    main(["stats", str(folder)])
    assert "4 targets, 0 broken" in capsys.readouterr().out


def test_verify_lists_every_broken_target(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", str(folder)])
    assert "4 targets, 0 broken" in capsys.readouterr().out
    key = corrupt_one(folder)
    with pytest.raises(WireError, match="must be whole, got 1 broken ones"):
        main(["verify", str(folder)])
    assert f"broken: {key}: a cached value must have its checksum" in capsys.readouterr().out


def test_export_and_import_give_the_same_cache(folder: Path, tmp_path: Path) -> None:
    main(["export", str(folder), str(tmp_path / "file")])
    main(["import", str(tmp_path / "file"), str(tmp_path / "other")])
    assert contents(tmp_path / "other") == contents(folder)
    # A second time changes nothing, and the same targets make the same file.
    main(["import", str(tmp_path / "file"), str(tmp_path / "other")])
    main(["export", str(tmp_path / "other"), str(tmp_path / "again")])
    assert (tmp_path / "again").read_bytes() == (tmp_path / "file").read_bytes()
    assert sorted(it.name for it in tmp_path.iterdir()) == ["again", "cache", "file", "other"]


def test_import_leaves_the_record_of_a_teacher_with_other_limits_alone(
    folder: Path, tmp_path: Path
) -> None:
    """The same weights behind a fleet that takes fewer tokens: a group of its own."""
    main(["export", str(folder), str(tmp_path / "file")])
    before = other_limits(folder, tmp_path / "other", longest=32)
    main(["import", str(tmp_path / "file"), str(tmp_path / "other")])
    after = contents(tmp_path / "other")
    assert {group_id: after[group_id] for group_id in before} == before
    assert after.keys() == contents(folder).keys() | before.keys()


def other_limits(folder: Path, new: Path, *, longest: int) -> dict[bytes, bytes]:
    """A cache with one target of the dialogue teacher of `folder` where it takes fewer tokens."""
    groups = [Group.from_json(it.decode()) for it in contents(folder).values() if it[:1] == b"{"]
    (group,) = [it for it in groups if it.description.kind == "dialogue"]
    assert group.limits.max_tokens > longest
    group.description.max_tokens = longest
    cache = TargetCache(new, max_bytes=MAX_BYTES)
    cache.put(group, {group.group_id + b"key": b"value"}, {})
    cache.close()
    return contents(new)


def test_export_of_a_broken_target_leaves_no_file(folder: Path, tmp_path: Path) -> None:
    corrupt_one(folder)
    with pytest.raises(WireError, match="checksum"):
        main(["export", str(folder), str(tmp_path / "file")])
    assert [it.name for it in tmp_path.iterdir()] == ["cache"]


def test_import_of_a_file_with_any_byte_changed_takes_nothing(folder: Path, tmp_path: Path) -> None:
    main(["export", str(folder), str(tmp_path / "file")])
    content = (tmp_path / "file").read_bytes()
    broken = tmp_path / "broken"
    for position in [*range(12), len(content) // 2, len(content) - 1]:
        changed = bytearray(content)
        changed[position] ^= 1
        broken.write_bytes(changed)
        with pytest.raises(WireError, match="must end with its SHA-256"):
            main(["import", str(broken), str(tmp_path / "other")])
    for length in (0, 5, 31, 32, len(content) - 1):
        broken.write_bytes(content[:length])
        with pytest.raises(WireError):
            main(["import", str(broken), str(tmp_path / "other")])
    assert contents(tmp_path / "other") == {}


def test_import_writes_no_more_at_a_time_than_its_bytes_allow(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["export", str(folder), str(tmp_path / "file")])
    monkeypatch.setattr("trainer.target_cache.archive.BYTES_PER_WRITE", 1)
    written: list[int] = []
    put = TargetCache.put

    def counted(self: TargetCache, group: Group, values: dict[bytes, bytes], broken: Any) -> Any:
        written.append(len(values))
        return put(self, group, values, broken)

    monkeypatch.setattr(TargetCache, "put", counted)
    main(["import", str(tmp_path / "file"), str(tmp_path / "other")])
    assert written == [1, 1, 1, 1]
    assert contents(tmp_path / "other") == contents(folder)


def test_import_beyond_max_bytes_keeps_the_folder_under_it(folder: Path, tmp_path: Path) -> None:
    main(["export", str(folder), str(tmp_path / "file")])
    other = tmp_path / "other"
    limit = 1 << 16
    with pytest.raises(OSError, match=r"must take all targets, got no room .* Raise --max-bytes"):
        main(["import", str(tmp_path / "file"), str(other), f"--max-bytes={limit}"])
    assert (other / "data.mdb").stat().st_size <= limit
    main(["import", str(tmp_path / "file"), str(other), f"--max-bytes={MAX_BYTES}"])
    assert contents(other) == contents(folder)
    for wrong in (0, MAX_CACHE_BYTES + 1):
        with pytest.raises(ValueError, match=rf"--max-bytes must be .* in .* got {wrong}\."):
            main(["import", str(tmp_path / "file"), str(other), f"--max-bytes={wrong}"])


def test_import_of_another_file_with_a_digest_names_what_it_begins_with(tmp_path: Path) -> None:
    content = b"PK34" + bytes(8)
    (tmp_path / "file").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(WireError, match=r"must begin with b'CKT3', got b'PK34'"):
        main(["import", str(tmp_path / "file"), str(tmp_path / "other")])


def test_import_of_an_archive_of_an_earlier_version_says_so(tmp_path: Path) -> None:
    content = b"CKT2" + bytes(12)
    (tmp_path / "file").write_bytes(content + hashlib.sha256(content).digest())
    with pytest.raises(WireError, match=r"got b'CKT2' of an earlier version.* Fill a cache anew"):
        main(["import", str(tmp_path / "file"), str(tmp_path / "other")])


@pytest.mark.everything
def test_archive_of_an_ensemble_serves_its_teachers_by_other_names(
    world: World, tmp_path: Path
) -> None:
    def named(**digests: str) -> DistillConfig:
        teachers = {
            name: NamedTeacher(kind="dialogue", weights_digest=digest)
            for name, digest in digests.items()
        }
        return DistillConfig(values="float32", gate="soft", teachers=teachers)

    for name in "ab":
        world.add(name, FakeTeacher("dialogue", weights_digest=name))
    world.add("r", FakeTeacher("recommendation"))
    client = client_of(world, tmp_path / "cache", named(one="a", two="b"))
    expected = ask(client, 2, 3)
    client.close()
    world.kill("directory")
    main(["export", str(tmp_path / "cache"), str(tmp_path / "file")])
    main(["import", str(tmp_path / "file"), str(tmp_path / "other")])
    for distill, names in (
        (named(two="a", one="b"), {"two": "one", "one": "two"}),
        (named(alone="b"), {"alone": "two"}),
    ):
        client = client_of(world, tmp_path / "other", distill, connect_s=0.2)
        got = ask(client, 2, 3)
        client.close()
        for name, before in names.items():
            assert_same_bits(got[name], expected[before])


def test_build_of_a_config_that_asks_no_teacher_is_refused(tmp_path: Path) -> None:
    config = RunConfig(
        data="", output="", teachers=TeachersConfig(), distill=DistillConfig(gamma=0.0)
    )
    with pytest.raises(ValueError, match="gamma must be above 0 to build a cache"):
        build(config, ["train"], Progress(disable=True))


def test_commands_about_a_folder_that_is_none_say_so(tmp_path: Path) -> None:
    for command in ("stats", "verify"):
        with pytest.raises(FileNotFoundError, match="must be a cache of targets"):
            main([command, str(tmp_path / "nothing")])
    with pytest.raises(FileNotFoundError, match="must be an exported file"):
        main(["import", str(tmp_path / "nothing"), str(tmp_path / "folder")])
    assert list(tmp_path.iterdir()) == []
