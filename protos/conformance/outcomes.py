"""What a check is, and how it may end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from protos.conformance.caller import Caller
from protos.conformance.probes import Probes

Outcome = Literal["passed", "failed", "not applicable"]


class Failed(Exception):
    """The teacher breaks the contract: the message says what must be, and what came."""


class NotApplicable(Exception):
    """The teacher need not do this: the message says why."""


@dataclass(frozen=True)
class Check:
    """One promise of the contract."""

    name: str
    """A sentence about a teacher that keeps it."""
    run: Callable[[Caller, Probes], str]
    """Raises Failed or NotApplicable; what is worth telling of a teacher that passes."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How one check ended."""

    name: str
    outcome: Outcome
    detail: str


def need(condition: bool, message: str) -> None:
    """Raise Failed unless the condition holds."""
    if not condition:
        raise Failed(message)
