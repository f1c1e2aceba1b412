"""Settings that are gone and what takes their place; a config that has one is refused."""

from __future__ import annotations

REMOVED = {
    "teachers.max_bytes": "teachers.in_flight bounds what is held",
}
"""Dotted key -> its replacement, as the end of a sentence."""
