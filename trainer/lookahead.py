"""Steps whose targets are requested long before their turn, so that no step has to wait.

One thread mixes targets as they arrive, beside the steps before; on a GPU all that a step needs
lies in pinned memory by then. At a time the targets of `teachers.in_flight` steps are held, and
those of the step itself, whole until it is done.
"""

from __future__ import annotations

import collections
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

from protos.target_rows import Targets
from trainer.config.distill import DistillConfig
from trainer.config.run import RunConfig
from trainer.data.examples import Example
from trainer.data.loader import (
    Batch,
    LoaderConfig,
    Positions,
    StudentInput,
    batches,
    to_student_input,
)
from trainer.data.model_input import InputLimits, reads_dialogues
from trainer.data.vocabulary import Vocabulary
from trainer.engine.engine import Engine
from trainer.kinds.teacher_kind import TeacherKind
from trainer.loss.conkd import PreparedTargets, prepare_targets
from trainer.telemetry.client_counters import ClientCounters


class Teachers(Protocol):
    """Source of teacher targets: the gRPC client or an in-process stand-in."""

    counters: ClientCounters

    @property
    def kinds(self) -> Mapping[str, TeacherKind]:
        """The kinds of the teachers that are asked."""
        ...

    @property
    def identity(self) -> dict[str, str]:
        """Name of a teacher -> weights digest and temperature."""
        ...

    @property
    def limits(self) -> Mapping[str, InputLimits]:
        """Name of a teacher -> what it takes of an example."""
        ...

    def submit(self, examples: Sequence[Example], temperature: float = 1.0) -> Future[Targets]:
        """Request the targets of a micro-batch at a temperature."""
        ...

    def close(self) -> None:
        """Release what is held; futures that are not done fail."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SubmittedStep:
    """One step's micro-batches, and the future targets of each; none without teachers."""

    step: int
    inputs: tuple[StudentInput, ...]
    pending: tuple[Future[PreparedTargets], ...]


def submitted_steps(
    config: RunConfig,
    engine: Engine,
    *,
    vocabulary: Vocabulary,
    examples: list[Example],
    limits: InputLimits,
    teachers: Teachers | None,
    first_step: int,
) -> Generator[SubmittedStep, None, None]:
    """The steps still to do, each submitted to the teachers `in_flight` steps before its turn.

    Of a caller that drops each step before it takes the next, at most `in_flight` + 1 are held.
    """
    merges = reads_dialogues(limits)
    loader = LoaderConfig(
        batch_size=config.train.batch_size,
        seed=config.seed,
        rank=engine.rank,
        world_size=engine.world_size,
        group=config.train.group or ("dialogue" if merges else "response"),
        micro_batch_size=config.train.micro_batch_size,
    )
    ahead: collections.deque[SubmittedStep] = collections.deque()
    mixer = ThreadPoolExecutor(1, thread_name_prefix="mix-targets")
    submitter = _Submitter(config, engine, vocabulary, limits, teachers, mixer)
    try:
        for batch in batches(examples, loader, first_step):
            if batch.step >= config.train.num_steps:
                break
            ahead.append(submitter.submit(batch))
            if len(ahead) > config.teachers.in_flight:
                yield ahead.popleft()
        yield from ahead
    finally:
        # Not waited for: when a run ends early, answers may come only as the client is closed.
        mixer.shutdown(wait=False, cancel_futures=True)


class _Submitter:
    """Makes submitted steps of batches."""

    def __init__(
        self,
        config: RunConfig,
        engine: Engine,
        vocabulary: Vocabulary,
        limits: InputLimits,
        teachers: Teachers | None,
        mixer: Executor,
    ) -> None:
        self._config = config
        self._pins_memory = engine.pins_memory
        self._vocabulary = vocabulary
        self._limits = limits
        self._teachers = teachers
        self._mixer = mixer
        self._items = range(
            vocabulary.first_item_id, vocabulary.first_item_id + vocabulary.num_items
        )

    def submit(self, batch: Batch) -> SubmittedStep:
        """Collate a batch, and request its targets."""
        inputs = tuple(
            to_student_input(each, self._vocabulary, self._limits) for each in batch.parts
        )
        pending: tuple[Future[PreparedTargets], ...] = ()
        if self._teachers is not None:
            # The temperature of the step that they are for, however long before it they are asked.
            distill = self._config.distill.at(batch.step)
            # The one thread waits for them in this order, which is the order of the steps.
            pending = tuple(
                self._mixer.submit(self._mix, each.positions, self._ask(examples, distill), distill)
                for examples, each in zip(batch.parts, inputs, strict=True)
            )
        if self._pins_memory:
            inputs = tuple(replace(each, model=each.model.pin_memory()) for each in inputs)
        return SubmittedStep(step=batch.step, inputs=inputs, pending=pending)

    def _ask(self, examples: Sequence[Example], distill: DistillConfig) -> Future[Targets]:
        """Targets of a micro-batch; none are asked for where they have no weight."""
        assert self._teachers is not None
        if distill.gamma > 0.0:
            return self._teachers.submit(examples, distill.temperature)
        nothing: Future[Targets] = Future()
        nothing.set_result({})
        return nothing

    def _mix(
        self, positions: Positions, received: Future[Targets], distill: DistillConfig
    ) -> PreparedTargets:
        """Wait for targets and make them ready for their step, on the mixer's thread."""
        assert self._teachers is not None
        kinds = self._teachers.kinds
        prepared = prepare_targets(positions, received.result(), distill, self._items, kinds)
        if self._pins_memory:
            prepared = replace(prepared, soft=prepared.soft.pin_memory())
        return prepared
