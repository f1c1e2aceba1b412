"""Which replica took whose place, told from looks at a kind while Serve replaces its replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RUNNING = "RUNNING"


class Replacing:
    """The replicas of one kind, from the first look until all that ran then are gone."""

    def __init__(self, kind: str, old: Sequence[str]) -> None:
        """`old`: ids of the replicas that shall go."""
        self.kind = kind
        self._old = tuple(old)
        self._gone: list[str] = []
        self._came: list[str] = []

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Old id and new id of each place, in the order in which they were taken."""
        return list(zip(self._gone, self._came, strict=False))

    def look(self, states: Mapping[str, str]) -> list[str]:
        """Take in a look: replica id -> Serve's state; a line for each place taken since."""
        known = len(self.pairs)
        self._gone += [it for it in self._old if it not in states and it not in self._gone]
        self._came += [it for it in _new(states, self._old) if it not in self._came]
        return [
            f"{self.kind}: replica {old} -> {new}, {place} of {len(self._old)}"
            for place, (old, new) in enumerate(self.pairs, 1)
            if place > known
        ]

    def is_done(self, states: Mapping[str, str], target: int) -> bool:
        """Whether none of the old is there and so many new ones run, and no others are there."""
        return len(states) == target == len(_new(states, self._old))


def _new(states: Mapping[str, str], old: Sequence[str]) -> list[str]:
    return [it for it, state in states.items() if state == RUNNING and it not in old]
