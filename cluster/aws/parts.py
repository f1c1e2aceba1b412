"""What `setup` makes: parts with a state, each made, brought up to date and removed by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

State = Literal["missing", "differs", "ready"]
VERBS: dict[State, str] = {"missing": "make", "differs": "change", "ready": "keep"}


class Part(Protocol):
    """One thing of the account."""

    @property
    def what(self) -> str:
        """Its sort and name, and what matters about it, in one line."""
        ...

    def state(self) -> State:
        """Whether it is there, and as it must be."""
        ...

    def make(self) -> None:
        """Make it, or change it to what it must be."""
        ...

    def remove(self) -> None:
        """Remove it, which is there."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """What is done about one part."""

    verb: str
    part: Part
    what: str
    """The part's, when the plan was made."""

    @property
    def text(self) -> str:
        """The step as a line of the plan."""
        return f"{self.verb:<7}{self.what}"


def _step(verb: str, part: Part) -> Step:
    return Step(verb=verb, part=part, what=part.what)


def steps_to_make(parts: Sequence[Part]) -> list[Step]:
    """All parts, those that stay as they are included."""
    return [_step(VERBS[part.state()], part) for part in parts]


def steps_to_remove(parts: Sequence[Part]) -> list[Step]:
    """The parts that are there; what was made last goes first."""
    return [_step("remove", it) for it in reversed(parts) if it.state() != "missing"]


def carry_out(steps: Sequence[Step], tell: Callable[[str], None]) -> None:
    """Carry out the steps in their order; `tell` gets each line when it is done."""
    for step in _changes(steps):
        if step.verb == "remove":
            step.part.remove()
        else:
            step.part.make()
        tell(f"done   {step.text}")


def changes(steps: Sequence[Step]) -> int:
    """How many of the steps change something."""
    return len(list(_changes(steps)))


def _changes(steps: Sequence[Step]) -> Iterator[Step]:
    return (step for step in steps if step.verb != VERBS["ready"])
