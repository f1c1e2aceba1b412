"""What a teacher is to the rest of the server: its Description and its one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from protos.codec import TargetRows
from protos.target_rows import ITEM_MASS
from protos.teacher_pb2 import Compression, Description
from trainer.common.errors import InputError
from trainer.data.action_form import ACTIONS, NUM_ACTIONS
from trainer.data.model_input import SequenceInput
from trainer.data.vocabulary import Vocabulary
from trainer.kinds.names import FLOAT32
from trainer.kinds.table import TEACHER_KINDS
from trainer.kinds.teacher_kind import TeacherKind


class Teacher(Protocol):
    """A pure function of its inputs: scoring the same input again gives the same rows."""

    description: Description

    def score(self, inputs: Sequence[SequenceInput], compression: Compression) -> TargetRows:
        """The wanted rows of each input, in the order of the inputs."""
        ...


def describe(card: Description, vocabulary: Vocabulary, dtype: str = FLOAT32) -> Description:
    """The card of a frozen folder, completed by what its vocabulary says, and by its type.

    Raises:
        InputError: if the folder holds another vocabulary than the card names.
    """
    if card.vocabulary_digest != vocabulary.digest:
        raise InputError(
            f"the {card.kind} teacher's vocabulary must have digest {card.vocabulary_digest}, got "
            f"{vocabulary.digest}. The folder's files do not belong together; export it again."
        )
    description = Description()
    description.CopyFrom(card)
    description.vocab_size = vocabulary.size
    description.first_item_id = vocabulary.first_item_id
    description.num_items = vocabulary.num_items
    description.catalogue_digest = vocabulary.catalogue_digest
    description.text_digest = vocabulary.text_digest
    description.dtype = dtype
    # All rows that `compress` cuts have it.
    description.masses[:] = [ITEM_MASS]
    return description


def num_token_ids(description: Description) -> int:
    """Token ids are below this: base tokens and items, [REC] and [GEN] of a teacher that was fitted
    with them, but no pad."""
    takes_actions = ACTIONS in description.capabilities
    return description.first_item_id + description.num_items + NUM_ACTIONS * takes_actions


def support_size(description: Description, kinds: Mapping[str, TeacherKind] = TEACHER_KINDS) -> int:
    """Entries of one whole row at most: of a kind that is not in `kinds`, the whole vocabulary."""
    kind = kinds.get(description.kind)
    if kind is None:
        return description.vocab_size
    first, number = description.first_item_id, description.num_items
    return len(kind.support(description.vocab_size, range(first, first + number)))
