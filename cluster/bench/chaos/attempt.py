"""A scenario that fails is a result like any other: the rest is still measured."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from trainer.common.errors import first_line

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A scenario that came to no result."""

    name: str
    answers: str
    """Where the teachers' answers come from, as of a trial."""
    error: str


async def attempt(name: str, answers: str, scenario: Awaitable[ResultT]) -> ResultT | Failure:
    """The result of a scenario, or why there is none; both are reported on stderr.

    CI may end a job without output for minutes.
    """
    outcome: ResultT | Failure
    try:
        outcome = await scenario
        text = f"  {name}, answers {answers}\n"
    except Exception as error:  # Whatever it is, hours of other scenarios must not go with it.
        reason = f"{type(error).__name__}: {first_line(error)}"
        outcome = Failure(name=name, answers=answers, error=reason)
        text = f"  {name}, answers {answers}: FAILED, {reason}\n"
    sys.stderr.write(text)
    sys.stderr.flush()
    return outcome
