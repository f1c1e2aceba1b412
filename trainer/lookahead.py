"""Steps whose targets are asked for long before their turn, so that no step has to wait."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainer.config import RunConfig
from trainer.conkd import TeacherTargets
from trainer.data.examples import Example
from trainer.data.loader import (
    LoaderConfig,
    StudentInput,
    batches,
    micro_batches,
    to_student_input,
)
from trainer.data.model_input import InputLimits
from trainer.data.vocabulary import Vocabulary
from trainer.dispatch import ClientCounters
from trainer.engine import Engine


class PendingTargets(Protocol):
    """Targets that were asked for."""

    def result(self) -> TeacherTargets:
        """Wait for them."""
        ...


class Teachers(Protocol):
    """Whoever answers: the served teachers, or others with the same answers."""

    counters: ClientCounters

    @property
    def identity(self) -> dict[str, str]:
        """Kind -> weights digest and temperature of who answers."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest input of one example that the dialogue teacher takes."""
        ...

    def submit(self, examples: Sequence[Example]) -> PendingTargets:
        """Ask about a micro-batch; returns at once."""
        ...

    def close(self) -> None:
        """Let go of whatever is held."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SubmittedStep:
    """One step's micro-batches, whose targets are on their way (or None: no teacher)."""

    step: int
    inputs: tuple[StudentInput, ...]
    pending: tuple[PendingTargets | None, ...]


def submitted_steps(
    config: RunConfig,
    engine: Engine,
    *,
    vocabulary: Vocabulary,
    examples: list[Example],
    limits: InputLimits,
    teachers: Teachers | None,
    first_step: int,
) -> Iterator[SubmittedStep]:
    """The steps still to do, each submitted to the teachers `in_flight` steps before its turn."""
    loader = LoaderConfig(
        batch_size=config.train.batch_size,
        seed=config.seed,
        rank=engine.rank,
        world_size=engine.world_size,
    )
    ahead: collections.deque[SubmittedStep] = collections.deque()
    for batch, _ in batches(examples, loader, first_step):
        if batch.step >= config.train.num_steps:
            break
        micro = micro_batches(batch, config.train.micro_batch_size)
        ahead.append(
            SubmittedStep(
                step=batch.step,
                inputs=tuple(
                    to_student_input(m, vocabulary, limits, action_tokens=config.action_tokens)
                    for m in micro
                ),
                pending=tuple(teachers.submit(m) if teachers else None for m in micro),
            )
        )
        if len(ahead) > config.teachers.in_flight:
            yield ahead.popleft()
    yield from ahead
