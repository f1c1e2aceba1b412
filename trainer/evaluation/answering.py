"""A system answers messages, batch by batch: the one way in which responses are made.

Batches depend on the messages alone, and what a message is answered depends on its batch alone: not
on who answers which batches, nor in what order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainer.common.progress import progress_bar
from trainer.data.message_contexts import MessageContext
from trainer.evaluation.generate import cut_batches
from trainer.evaluation.responders import Responder
from trainer.scoring.records import Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Answered:
    """One batch that is done."""

    batch: int
    """Its number among all batches."""
    records: tuple[Record, ...]
    seconds: float


def first_dialogues(contexts: Sequence[MessageContext], limit: int | None) -> list[MessageContext]:
    """The messages of the first so many dialogues; None: of all."""
    if limit is None:
        return list(contexts)
    kept = set(list(dict.fromkeys(it.dialogue_id for it in contexts))[:limit])
    return [context for context in contexts if context.dialogue_id in kept]


def message_batches(contexts: Sequence[MessageContext], batch_size: int) -> list[list[int]]:
    """Indices of messages whose contexts are alike in length, the longest first."""
    return cut_batches([len(it.example.context_ids) for it in contexts], batch_size)


def answer(
    responder: Responder,
    contexts: Sequence[MessageContext],
    batches: Sequence[Sequence[int]],
    chosen: Sequence[int],
    *,
    title: str,
) -> Iterator[Answered]:
    """Answer the chosen batches, one after another.

    Args:
        batches: of all contexts.
        chosen: numbers of batches.
        title: stands before the progress on stderr.
    """
    total, done = sum(len(batches[n]) for n in chosen), 0
    with progress_bar() as bar:
        task = bar.add_task(title, total=total)
        for n in chosen:
            started = time.perf_counter()
            records = responder.respond([contexts[index] for index in batches[n]])
            seconds = time.perf_counter() - started
            done += len(records)
            bar.advance(task, len(records))
            if not bar.console.is_terminal:
                # A log keeps lines, not a bar that redraws itself.
                bar.console.print(f"{title} {done}/{total}", highlight=False)
            yield Answered(batch=n, records=tuple(records), seconds=seconds)


def answer_all(
    responder: Responder, contexts: Sequence[MessageContext], batch_size: int, *, title: str
) -> list[Record]:
    """A record for each message, in the order given.

    Raises:
        InputError: if a context does not fit the model.
    """
    responder.check(contexts)
    batches = message_batches(contexts, batch_size)
    record_of: dict[int, Record] = {}
    for done in answer(responder, contexts, batches, range(len(batches)), title=title):
        record_of.update(zip(batches[done.batch], done.records, strict=True))
    return [record_of[index] for index in range(len(contexts))]
