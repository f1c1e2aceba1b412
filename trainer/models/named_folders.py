"""Teachers that a run names by their folders, of which it keeps the digests of the weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.config.named_teachers import NamedTeacher
from trainer.config.run import RunConfig
from trainer.models.frozen import read_card


def with_weights_digests(config: RunConfig) -> RunConfig:
    """The config with the digest of each named teacher's weights in the place of its folder.

    A folder may lie elsewhere on another node or on resume; its weights may not be others. Without
    any teacher, at gamma 0, none is read.

    Raises:
        MissingError: if a folder or its card is missing.
        InputError: if it holds a model of another kind, or the weights of another named teacher.
    """
    if config.distill.gamma == 0.0:
        return config
    teachers = {name: _resolved(each) for name, each in config.distill.teachers.items()}
    distill = dataclasses.replace(config.distill, teachers=teachers)
    return dataclasses.replace(config, distill=distill)


def _resolved(teacher: NamedTeacher) -> NamedTeacher:
    if teacher.folder is None:
        return teacher
    # The replica that serves them checks the weights themselves.
    card = read_card(Path(teacher.folder), teacher.kind, check_weights=False)
    return dataclasses.replace(teacher, folder=None, weights_digest=card.weights_digest)
