"""Steps whose targets are asked for long before their turn, so that no step has to wait.

They are mixed as soon as they arrive, beside the steps before; on a GPU all that a step needs lies
in pinned memory by then.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from protos.target_rows import TeacherTargets
from trainer.config.run import RunConfig
from trainer.data.examples import Example
from trainer.data.loader import (
    LoaderConfig,
    Positions,
    StudentInput,
    batches,
    micro_batches,
    to_student_input,
)
from trainer.data.model_input import InputLimits
from trainer.data.vocabulary import Vocabulary
from trainer.engine.engine import Engine
from trainer.loss.conkd import PreparedTargets, prepare_targets
from trainer.telemetry.client_counters import ClientCounters

ResultT = TypeVar("ResultT", covariant=True)
PreparedT = TypeVar("PreparedT")


class Pending(Protocol[ResultT]):
    """Something that will be there."""

    def result(self) -> ResultT:
        """Wait for it."""
        ...


class PendingTargets(Protocol):
    """Targets that were asked for."""

    def then(self, prepare: Callable[[TeacherTargets], PreparedT]) -> Pending[PreparedT]:
        """What `prepare` makes of them, off the training thread where they come from elsewhere."""
        ...


class Teachers(Protocol):
    """Whoever answers: the served teachers, or others with the same answers."""

    counters: ClientCounters

    @property
    def identity(self) -> dict[str, str]:
        """Kind -> weights digest and temperature of who answers."""
        ...

    @property
    def max_tokens(self) -> int | None:
        """Longest input of one example that the dialogue teacher takes; None: it is not asked."""
        ...

    def submit(self, examples: Sequence[Example]) -> PendingTargets:
        """Ask about a micro-batch; returns at once."""
        ...

    def close(self) -> None:
        """Let go of whatever is held."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SubmittedStep:
    """One step's micro-batches, and their mixed targets, on their way (or None: no teacher)."""

    step: int
    inputs: tuple[StudentInput, ...]
    pending: tuple[Pending[PreparedTargets] | None, ...]


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
    for batch in batches(examples, loader, first_step):
        if batch.step >= config.train.num_steps:
            break
        micro = micro_batches(batch, config.train.micro_batch_size)
        inputs = tuple(
            to_student_input(m, vocabulary, limits, action_tokens=config.action_tokens)
            for m in micro
        )
        pending: tuple[Pending[PreparedTargets] | None, ...] = (None,) * len(micro)
        if teachers is not None:
            pending = tuple(
                teachers.submit(m).then(_preparing(config, engine, vocabulary, each.positions))
                for m, each in zip(micro, inputs, strict=True)
            )
        if engine.pins_memory:
            inputs = tuple(replace(each, model=each.model.pin_memory()) for each in inputs)
        ahead.append(SubmittedStep(step=batch.step, inputs=inputs, pending=pending))
        if len(ahead) > config.teachers.in_flight:
            yield ahead.popleft()
    yield from ahead


def _preparing(
    config: RunConfig, engine: Engine, vocabulary: Vocabulary, positions: Positions
) -> Callable[[TeacherTargets], PreparedTargets]:
    """How the targets of one micro-batch are made ready for its step."""
    items = range(vocabulary.first_item_id, vocabulary.first_item_id + vocabulary.num_items)

    def prepare(received: TeacherTargets) -> PreparedTargets:
        prepared = prepare_targets(positions, received, config.distill, items)
        if engine.pins_memory:
            prepared = replace(prepared, soft=prepared.soft.pin_memory())
        return prepared

    return prepare
