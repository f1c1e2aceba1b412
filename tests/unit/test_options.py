"""The list of options changes on purpose alone."""

from __future__ import annotations

from pathlib import Path

from tests.support.options import all_options

FILE = Path(__file__).with_name("options.txt")
REMEDY = """
Each option is a promise to users. If this change is meant:
1. python -m tests.support.options > tests/unit/options.txt
2. add a line about it to CHANGELOG.md
3. name what replaces a setting that goes in trainer/config/removed.py
"""


def test_options_are_those_of_the_list() -> None:
    now, listed = set(all_options()), set(FILE.read_text().splitlines())
    added, removed = sorted(now - listed), sorted(listed - now)
    changes = [*(f"+ {line}" for line in added), *(f"- {line}" for line in removed)]
    assert changes == [], "\n".join([*changes, REMEDY])
