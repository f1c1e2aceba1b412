"""Targets from the cache, and from the teachers for what is missing there.

An answer is taken apart by example, because batches are shuffled anew in every epoch: of a batch
that is partly known only the rest is asked for. What was received is written BEFORE it is handed
out, and where another rank was faster its rows are handed out: so what a student trained on is
what lies in the cache, bit for bit, although a teacher may round otherwise in another batch. This
is no wait of the training thread: it asks `in_flight` steps ahead, and everything here runs beside
it, reading and writing on threads of the cache's own. The queue of writing is bounded in bytes:
where writing cannot follow, a run's rows are handed out unwritten, and a build's wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from protos import codec
from protos.codec import TargetRows, WireError
from trainer.common.byte_budget import ByteBudget
from trainer.data.model_input import SequenceInput
from trainer.target_cache.block import pack, unpack
from trainer.target_cache.keys import RequestKeys
from trainer.target_cache.store import TargetCache
from trainer.telemetry.client_counters import ClientCounters

logger = logging.getLogger(__name__)

MAX_QUEUED_BYTES = 64 << 20
READ_THREADS = 2

ScoreCall = Callable[[Sequence[SequenceInput]], Awaitable[TargetRows]]


@dataclass
class Found:
    """The cached part of a batch."""

    rows: dict[bytes, TargetRows] = field(default_factory=dict)
    broken: dict[bytes, bytes] = field(default_factory=dict)
    """Corrupt values, to be replaced."""
    num_bytes: int = 0


class CachedAnswers:
    """Everything between a client's requests and a cache; lives on the client's event loop."""

    def __init__(
        self, cache: TargetCache, counters: ClientCounters, *, waits_for_room: bool = False
    ) -> None:
        """Read and write `cache`; `waits_for_room`: wait for the writer, never skip a write."""
        self.cache = cache
        self._waits_for_room = waits_for_room
        self._counters = counters
        self._readers = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="target-cache-read")
        # One: LMDB has one writer at a time anyhow.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="target-cache-write")
        self._queued = ByteBudget(MAX_QUEUED_BYTES)

    async def answer(
        self, request: RequestKeys, inputs: Sequence[SequenceInput], score: ScoreCall
    ) -> TargetRows:
        """The rows of all inputs, one example after another.

        Args:
            request: makes the key of each of them.
            inputs: at least one example.
            score: gets the rows of some of them from the teachers.
        """
        loop = asyncio.get_running_loop()
        keys, found = await loop.run_in_executor(self._readers, self._look_up, request, inputs)
        missing = {
            key: each for key, each in zip(keys, inputs, strict=True) if key not in found.rows
        }
        self._counters.cache_hits += sum(key in found.rows for key in keys)
        self._counters.cache_misses += sum(key in missing for key in keys)
        self._counters.cache_read_bytes += found.num_bytes
        self._counters.cache_broken += len(found.broken)
        rows = found.rows
        if missing:
            received = await score(list(missing.values()))
            lengths = [each.num_rows for each in missing.values()]
            new = dict(zip(missing, received.split(lengths), strict=True))
            rows |= await self._keep(request, new, found.broken)
        return codec.concat_rows([rows[key] for key in keys])

    def close(self) -> None:
        """Finish reads and writes in progress, then close the cache."""
        self._readers.shutdown()
        self._writer.shutdown()
        self.cache.close()

    def _look_up(
        self, request: RequestKeys, inputs: Sequence[SequenceInput]
    ) -> tuple[list[bytes], Found]:
        keys = [request.key(each) for each in inputs]
        asked = dict(zip(keys, inputs, strict=True))
        found = Found()
        vocab_size = request.group.description.vocab_size
        for (key, each), value in zip(asked.items(), self.cache.get(list(asked)), strict=True):
            if value is None:
                continue
            try:
                found.rows[key] = unpack(key, value, vocab_size=vocab_size, num_rows=each.num_rows)
                found.num_bytes += len(value)
            except WireError as error:
                logger.warning("cached %s target is asked for anew: %s", request.kind, error)
                found.broken[key] = value
        return keys, found

    async def _keep(
        self, request: RequestKeys, new: dict[bytes, TargetRows], broken: Mapping[bytes, bytes]
    ) -> dict[bytes, TargetRows]:
        """Write new rows; return the stored ones, or the new rows where none is stored."""
        num_bytes = sum(rows.num_bytes for rows in new.values())
        has_room = not self.cache.is_full and self._queued.try_take(num_bytes)
        if not has_room and (self.cache.is_full or not self._waits_for_room):
            self._counters.cache_unwritten += len(new)
            return new
        if not has_room:
            await self._queued.take(num_bytes)
        try:
            kept, written = await asyncio.get_running_loop().run_in_executor(
                self._writer, self._write, request, new, broken
            )
        finally:
            self._queued.give(num_bytes)
        self._counters.cache_written_bytes += written.num_bytes
        self._counters.cache_unwritten += written.num_failed
        return kept

    def _write(
        self, request: RequestKeys, new: dict[bytes, TargetRows], broken: Mapping[bytes, bytes]
    ) -> tuple[dict[bytes, TargetRows], Written]:
        values: dict[bytes, bytes] = {}
        for key, rows in new.items():
            try:
                values[key] = pack(key, rows, request.group.compression.values)
            except ValueError as error:
                logger.warning("%s target cannot be kept: %s", request.kind, error)
        first = self.cache.put(request.group, values, broken) if values else {}
        if first is None:
            return new, Written(num_bytes=0, num_failed=len(new))
        vocab_size = request.group.description.vocab_size
        kept = dict(new)
        for key, value in first.items():
            try:
                kept[key] = unpack(key, value, vocab_size=vocab_size, num_rows=new[key].num_rows)
            except WireError as error:
                logger.warning("cached %s target is not used: %s", request.kind, error)
        num_bytes = sum(len(value) for key, value in values.items() if key not in first)
        return kept, Written(num_bytes=num_bytes, num_failed=len(new) - len(values))


@dataclass(frozen=True)
class Written:
    """Outcome of writing a batch of new rows."""

    num_bytes: int
    num_failed: int
    """Examples that were not stored."""
