"""A store of ranks that are objects of one process, with the calls of torch's."""

from __future__ import annotations


class MemoryStore:
    def __init__(self) -> None:
        self._counters: dict[str, int] = {}
        self._texts: dict[str, str] = {}

    def add(self, key: str, value: int, /) -> int:
        self._counters[key] = self._counters.get(key, 0) + value
        return self._counters[key]

    def set(self, key: str, value: str, /) -> None:
        self._texts[key] = value

    def get(self, key: str, /) -> bytes:
        return self._texts[key].encode()

    def check(self, keys: list[str], /) -> bool:
        return all(key in self._texts for key in keys)
