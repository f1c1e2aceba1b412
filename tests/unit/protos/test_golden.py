"""Files of every released version are read for ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from protos.codec import WireError
from protos.version import WIRE_VERSION
from tests.support import golden_requests
from tests.support.golden import CONTRACT, EXPECTED, FOLDER, cases, check_file, write_version
from tests.support.golden_requests import REQUESTS, check_request_file

VERSIONS = sorted(path.parent for path in FOLDER.glob(f"v*/{EXPECTED}"))
ENTRIES = [
    (folder, entry) for folder in VERSIONS for entry in json.loads((folder / EXPECTED).read_text())
]
ASKED = [
    (folder, entry)
    for folder in VERSIONS
    if (folder / REQUESTS).is_file()
    for entry in json.loads((folder / REQUESTS).read_text())
]
MAX_BYTES = 64 << 10


def ids() -> list[str]:
    return [f"{folder.name}/{entry['file']}" for folder, entry in ENTRIES]


@pytest.mark.parametrize(("folder", "entry"), ENTRIES, ids=ids())
def test_file_of_every_version_holds_what_it_held(folder: Path, entry: dict[str, Any]) -> None:
    check_file(folder, entry)


@pytest.mark.parametrize(
    ("folder", "entry"), ASKED, ids=[f"{folder.name}/{entry['file']}" for folder, entry in ASKED]
)
def test_replica_reads_requests_of_every_version(folder: Path, entry: dict[str, Any]) -> None:
    check_request_file(folder, entry)


def test_requests_of_this_version_are_sent_as_they_were() -> None:
    stored = [json.loads(json.dumps(case.to_dict())) for case in golden_requests.cases()]
    folder = FOLDER / f"v{WIRE_VERSION}"
    assert stored == [entry for at, entry in ASKED if at == folder]
    for case, entry in zip(golden_requests.cases(), stored, strict=True):
        assert case.content == (folder / entry["file"]).read_bytes(), case.name


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("request_id", 8),
        ("traceparent", "00"),
        ("compression", {"top_k": 64}),
        ("sequences", []),
    ],
)
def test_request_that_asks_for_something_else_fails(name: str, other: object) -> None:
    folder, entry = ASKED[0]
    with pytest.raises(AssertionError, match=name):
        check_request_file(folder, {**entry, name: other})


@pytest.mark.parametrize(("folder", "entry"), ENTRIES, ids=ids())
def test_file_with_one_byte_changed_fails(
    folder: Path, entry: dict[str, Any], tmp_path: Path
) -> None:
    content = bytearray((folder / entry["file"]).read_bytes())
    content[len(content) * 2 // 3] ^= 1
    planted = tmp_path / entry["file"]
    planted.parent.mkdir()
    planted.write_bytes(content)
    with pytest.raises(WireError):
        check_file(tmp_path, entry)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("ids_E", 1),
        ("log_probs_E", 1e-4),
        ("tail_R", 1e-6),
    ],
)
def test_file_that_holds_other_numbers_fails(name: str, change: float) -> None:
    folder, entry = ENTRIES[0]
    other = [entry[name][0] + change, *entry[name][1:]]
    with pytest.raises(AssertionError, match=name):
        check_file(folder, {**entry, name: other})


def test_this_version_has_its_files_and_no_file_is_left_out() -> None:
    assert FOLDER / f"v{WIRE_VERSION}" in VERSIONS
    for folder in VERSIONS:
        named = {entry["file"] for at, entry in [*ENTRIES, *ASKED] if at == folder}
        there = {
            path.relative_to(folder).as_posix()
            for kind in ("blocks", "cache", golden_requests.FOLDER)
            for path in (folder / kind).iterdir()
        }
        assert named == there
        assert sum(path.stat().st_size for path in folder.rglob("*.*")) < MAX_BYTES
        assert (folder / CONTRACT).is_file()


def test_files_of_a_version_that_is_there_are_not_written_over(tmp_path: Path) -> None:
    write_version(tmp_path / "v1")
    written = {path.name: path.read_bytes() for path in (tmp_path / "v1").rglob("*.block")}
    assert len(written) == len([it for it in cases() if it.file.endswith(".block")])
    shutil.rmtree(tmp_path / "v1" / "blocks")
    with pytest.raises(ValueError, match=r"must be new, got one with expected\.json"):
        write_version(tmp_path / "v1")
    assert not (tmp_path / "v1" / "blocks").exists()
