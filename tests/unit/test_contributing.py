"""CONTRIBUTING.md names every file of system tests, and only files that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
MAX_COLUMNS = 120


def test_every_system_test_protects_a_promise() -> None:
    named = set(re.findall(r"`system/(test_[\w*]+\.py)`", TEXT))
    found = {it for name in named for it in (ROOT / "tests" / "system").glob(name)}
    assert found == set((ROOT / "tests" / "system").glob("test_*.py"))


def test_paths_of_the_tables_are_there() -> None:
    paths = re.findall(r"`((?:unit|system)/[\w./*]+)`", TEXT)
    assert paths
    assert [path for path in paths if not list((ROOT / "tests").glob(path))] == []


def test_lines_are_not_too_long() -> None:
    assert max(map(len, TEXT.splitlines())) <= MAX_COLUMNS
