"""Names of the groups of a fleet: replicas of one teacher, one Serve application.

A kind has one group that new students take. The first has the kind's name; after a roll to another
teacher it is dialogue.2, then dialogue.3, while those before retire.
"""

from __future__ import annotations

from collections.abc import Iterable

APP_PREFIX = "conkd-"
"""Of the names of Serve applications."""
# No kind's name has one: protos.limits.KIND_NAME.
SEPARATOR = "."


def kind_of(group: str) -> str:
    """The kind of a group's teacher."""
    return group.partition(SEPARATOR)[0]


def next_group(kind: str, groups: Iterable[str]) -> str:
    """The name of one more group of a kind, beside those that there are."""
    taken = [it.partition(SEPARATOR)[2] for it in groups if kind_of(it) == kind]
    return f"{kind}{SEPARATOR}{max(int(number or 1) for number in taken) + 1}"
