"""The arms of the benchmark `step`: where a step's targets come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.bench.fleet.in_process import InProcessTeachers
from trainer.config.run import RunConfig
from trainer.data.prepared import PreparedData
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.lookahead import Teachers
from trainer.teacher_client.client import TeacherClient

NO_TEACHER, SERVED, CACHED, IN_PROCESS = "no teacher", "served", "cached", "in process"
SINGLE, GROUPED = "one pass per response", "one pass per dialogue"
# Nothing listens there, so every answer must come from the cache.
NOWHERE = "127.0.0.1:9"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Source of a step's targets, and the settings for it."""

    config: RunConfig
    teachers: Teachers | None
    merges: bool = True
    """Whether the student reads a dialogue in one sequence, if the settings let it."""


def pass_builders(config: RunConfig) -> dict[str, Callable[[], Arm]]:
    """One forward per dialogue and one per response, of the same batches; without a teacher.

    And without action tokens, which let no response follow another in one sequence.
    """
    distill = dataclasses.replace(config.distill, gamma=0.0)
    train = dataclasses.replace(config.train, group="dialogue")
    own = dataclasses.replace(config, distill=distill, train=train, action_tokens=False)
    return {
        SINGLE: lambda: Arm(config=own, teachers=None, merges=False),
        GROUPED: lambda: Arm(config=own, teachers=None),
    }


def teacher_builders(
    config: RunConfig, data: PreparedData, *, dialogue: Path, recommendation: Path, cache: Path
) -> dict[str, Callable[[], Arm]]:
    """The arms, in the order in which they are built: those that need most memory last.

    `dialogue` and `recommendation` are the teachers of the arm in process.
    """

    def client(settings: RunConfig) -> Arm:
        teachers = TeacherClient(
            settings.teachers,
            settings.distill,
            vocabulary=data.vocabulary,
            graph_digest=data.graphs_digest,
        )
        return Arm(config=settings, teachers=teachers)

    def none() -> Arm:
        distill = dataclasses.replace(config.distill, gamma=0.0)
        return Arm(config=dataclasses.replace(config, distill=distill), teachers=None)

    def cached() -> Arm:
        teachers = dataclasses.replace(
            config.teachers, cache=str(cache), directory=NOWHERE, connect_s=0.5
        )
        return client(dataclasses.replace(config, teachers=teachers))

    def in_process() -> Arm:
        folders = {DIALOGUE: dialogue, RECOMMENDATION: recommendation}
        teachers = InProcessTeachers(folders, config.distill)
        return Arm(config=config, teachers=teachers)

    return {
        NO_TEACHER: none,
        SERVED: lambda: client(config),
        CACHED: cached,
        IN_PROCESS: in_process,
    }
