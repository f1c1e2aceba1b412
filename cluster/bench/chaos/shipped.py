"""Faults under the settings that ship: how long a student goes without, and what is done twice.

The student's client stands alone, so that seconds and counts are its own and not a step's. It has
TeachersConfig's defaults: 60 s until a deadline, no hedging. Two dialogue replicas replay recorded
answers at a pace. Directory and replicas are reached through links that can be led elsewhere or
broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from cluster.bench.chaos.attempt import Failure, attempt
from cluster.bench.chaos.caller import Caller, calling
from cluster.bench.chaos.link import HOST, Link
from cluster.bench.chaos.trial import SECONDS_PER_ROW
from cluster.bench.fleet.directory import send
from cluster.bench.fleet.fleet import Fleet, ReplicaProcess
from cluster.bench.result import Row
from protos import teacher_pb2
from protos.target_rows import Targets
from teacher_server.fleet.leases import RENEW_S, Lease
from teacher_server.replica.rpc import fetch_stats
from teacher_server.replica.service import TeacherServer
from teacher_server.scoring.description import Teacher
from trainer.common.errors import MachineError
from trainer.config.teachers import TeachersConfig
from trainer.data.prepared import PreparedData
from trainer.kinds.names import DIALOGUE
from trainer.security.addresses import address_of

ANSWERS = "replayed, shipped settings"
NUM_OPEN = 8
NUM_REPLICAS = 2
QUIET_S = (2.0, 12.0, 25.0)
"""Since the Directory last said something: gRPC's pings depend on it."""
FROZEN_REPLICA_RUNS = 3
BACKLOG_RUNS = 2
BACKLOG_DEADLINES = 5
BACKLOG_DEADLINE_S = 5.0
"""Instead of 60: five of those would be five minutes."""
NUM_FLAPS = 10
FLAP_EVERY_S = 3.0
"""Above the 2 s within which the client counts several ends as one."""
FLAP_BACKLOG_S = 36.0
"""Of work, so that requests are open at every flap."""
OUTCOMES = ("blocks", "failed", "abandoned")
"""Counters of requests that a replica scored, or may have."""
LIMIT_S = 180.0
POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Stand:
    """A running fleet of two dialogue replicas, and the links to it."""

    fleet: Fleet
    data: PreparedData
    spare: Teacher
    """Of a dialogue replica in our own process."""
    directory: Link
    links: Sequence[Link]
    """To the dialogue replicas."""
    spare_names: itertools.count[int] = dataclasses.field(default_factory=itertools.count)

    @property
    def config(self) -> TeachersConfig:
        """The defaults."""
        return TeachersConfig(directory=self.directory.address)

    @property
    def replicas(self) -> list[ReplicaProcess]:
        """The two of dialogue."""
        return self.fleet.replicas(DIALOGUE)


@contextlib.asynccontextmanager
async def standing(fleet: Fleet, data: PreparedData, spare: Teacher) -> AsyncIterator[Stand]:
    """Start the fleet, whose other kinds are its own to start, and the links."""
    directory, links = Link(), [Link() for _ in range(NUM_REPLICAS)]
    for link in (directory, *links):
        await link.open()
    try:
        await fleet.heal()
        directory.lead_to(fleet.directory)
        for link in links:
            replica = await fleet.add(DIALOGUE, link.address)
            link.lead_to(fleet.address_of(replica))
        yield Stand(fleet=fleet, data=data, spare=spare, directory=directory, links=links)
    finally:
        for link in (directory, *links):
            await link.close()
        await fleet.stop()


async def run_shipped(
    fleet: Fleet, data: PreparedData, spare: Teacher
) -> tuple[dict[str, float], list[Row], list[Failure]]:
    """All four scenarios: the figures that came out, a row of each run, and what failed."""
    outcomes: list[list[Row] | Failure] = []

    async def run_all() -> None:
        async with standing(fleet, data, spare) as stand:
            for name, scenario in SCENARIOS.items():
                outcomes.append(await attempt(name, ANSWERS, _named(name, scenario(stand))))
                await fleet.heal()

    started = await attempt("fleet of the shipped settings", ANSWERS, run_all())
    rows = [row for outcome in outcomes if not isinstance(outcome, Failure) for row in outcome]
    failures = [it for it in (*outcomes, started) if isinstance(it, Failure)]
    return shipped_figures(rows), rows, failures


def shipped_figures(rows: Sequence[Row]) -> dict[str, float]:
    """The median over the runs of each scenario; nothing of one that failed."""
    values = {name: [float(row[name]) for row in rows if name in row] for name in FIGURES}
    return {name: median(measured) for name, measured in values.items() if measured}


async def freeze_directories(stand: Stand) -> list[Row]:
    """SIGSTOP of the Directory; another one listens at its address as soon as it has started.

    The seconds end when a replica that only the new one lists has answered the client.
    """
    rows: list[Row] = []
    async with calling(stand.config, stand.data, num_open=NUM_OPEN) as caller:
        for quiet_s in QUIET_S:
            async with _spare(stand) as (server, listed):
                await asyncio.sleep(quiet_s)
                stand.fleet.freeze_directory()
                frozen_s = time.monotonic()
                stand.fleet.replace_directory()
                stand.directory.lead_to(stand.fleet.directory)
                listed.set()
                await _until(lambda: server.counters.blocks > 0, "a newly listed replica", caller)
                seconds = time.monotonic() - frozen_s
            rows.append({"quiet_s": quiet_s, "frozen_directory_s": seconds})
    return rows


@contextlib.asynccontextmanager
async def _spare(stand: Stand) -> AsyncIterator[tuple[TeacherServer, asyncio.Event]]:
    """A replica in our own process that holds a lease from the event on."""
    name = f"spare-{next(stand.spare_names)}"
    server, listed = TeacherServer(stand.spare, replica_id=name), asyncio.Event()
    address = address_of(HOST, await server.start(HOST))
    lease = Lease(kind=DIALOGUE, address=address, replica_id=name, pid=0)

    async def renew() -> None:
        await listed.wait()
        while True:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await send(stand.fleet.socket, {"renew": dataclasses.asdict(lease)})
            await asyncio.sleep(RENEW_S)

    renewing = asyncio.create_task(renew())
    try:
        yield server, listed
    finally:
        renewing.cancel()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await send(stand.fleet.socket, {"release": name})
        await server.drain(RENEW_S)


async def freeze_replicas(stand: Stand) -> list[Row]:
    """SIGSTOP of a replica that holds requests, until other replicas have answered all of them."""
    rows: list[Row] = []
    async with calling(stand.config, stand.data, num_open=NUM_OPEN) as caller:
        for run in range(FROZEN_REPLICA_RUNS):
            replica = stand.replicas[run % NUM_REPLICAS]
            for each in stand.replicas:
                await _until_streaming(stand, each, caller)
            resends = caller.counters.resends
            replica.signal(signal.SIGSTOP)
            try:
                frozen_s, held = time.monotonic(), set(caller.open)
                await _until(functools.partial(_are_done, held), "its work elsewhere", caller)
                seconds = time.monotonic() - frozen_s
            finally:
                replica.signal(signal.SIGCONT)
            resent = caller.counters.resends - resends
            if not resent:
                raise MachineError("the frozen replica must hold requests, got none sent again.")
            rows.append({"resends": resent, "frozen_replica_s": seconds})
    return rows


def _are_done(answers: Iterable[asyncio.Future[Targets]]) -> bool:
    return all(answer.done() for answer in answers)


async def _until_streaming(stand: Stand, replica: ReplicaProcess, caller: Caller) -> None:
    """Wait until a replica has answered the client a few times (after a freeze: once again)."""
    before = await _num_blocks(stand, replica)
    for _ in range(round(LIMIT_S / RENEW_S)):
        if await _num_blocks(stand, replica) >= before + NUM_OPEN or caller.error is not None:
            return
        await asyncio.sleep(RENEW_S)
    raise MachineError(f"{replica.replica_id} must answer again, got nothing in {LIMIT_S:g} s.")


async def drain_backlogs(stand: Stand) -> list[Row]:
    """More work at once than both replicas do in five deadlines; both answer all the time."""
    config = dataclasses.replace(stand.config, deadline_s=BACKLOG_DEADLINE_S)
    rows: list[Row] = []
    for _ in range(BACKLOG_RUNS):
        async with calling(config, stand.data) as caller:
            before = await _num_forwards(stand)
            start_s = time.monotonic()
            caller.ask_rows(_rows_of(BACKLOG_DEADLINES * BACKLOG_DEADLINE_S))
            await caller.finish()
            seconds, requests = time.monotonic() - start_s, caller.counters.requests
        # Once the client is gone, so is what it asked twice.
        forwards = await _num_forwards(stand) - before
        rows.append(
            {
                "deadline_s": BACKLOG_DEADLINE_S,
                "drained_s": seconds,
                "requests": requests,
                "forwards": forwards,
                "forwards_per_request": forwards / requests,
            }
        )
    return rows


async def flap_links(stand: Stand) -> list[Row]:
    """Reset the connections of both dialogue replicas' streams, ten times, while they have work."""
    survived = 0
    async with calling(stand.config, stand.data) as caller:
        caller.ask_rows(_rows_of(FLAP_BACKLOG_S))
        await asyncio.sleep(FLAP_EVERY_S)
        for _ in range(NUM_FLAPS):
            num_answers, num_open = caller.num_answers, len(caller.open)
            broken = sum(link.flap() for link in stand.links)
            if broken < NUM_REPLICAS or not num_open:
                raise MachineError(
                    f"{NUM_REPLICAS} streams with work must be open at a flap, got {broken} and "
                    f"{num_open} requests."
                )
            await asyncio.sleep(FLAP_EVERY_S)
            if caller.error is not None:
                break
            survived += caller.num_answers > num_answers
        # What it raises is `caller.error`, which is reported below.
        with contextlib.suppress(Exception):
            await caller.finish()
        if caller.error is not None and survived == NUM_FLAPS:
            survived -= 1
        row: Row = {"flaps": NUM_FLAPS, "flaps_survived": survived}
        row |= {"resends": caller.counters.resends, "error": str(caller.error or "")}
    return [row]


def _rows_of(seconds: float) -> int:
    """Rows that keep both dialogue replicas busy for so long."""
    return round(NUM_REPLICAS * seconds / SECONDS_PER_ROW)


async def _num_forwards(stand: Stand) -> int:
    """Requests that all replicas took in since they started, each of them to score it."""
    stats = [await _stats(stand, replica) for replica in stand.fleet.replicas()]
    ended = sum(each.counters[outcome] for each in stats for outcome in OUTCOMES)
    return round(ended + sum(each.gauges["in_flight"] for each in stats))


async def _num_blocks(stand: Stand, replica: ReplicaProcess) -> int:
    return round((await _stats(stand, replica)).counters["blocks"])


async def _stats(stand: Stand, replica: ReplicaProcess) -> teacher_pb2.ReplicaStats:
    address = stand.fleet.address_of(replica)
    stats = await asyncio.to_thread(fetch_stats, address, LIMIT_S)
    if stats is None:
        raise MachineError(f"{replica.replica_id} must answer at {address}, got nothing.")
    return stats


async def _until(condition: Callable[[], bool], what: str, caller: Caller) -> None:
    """Wait for a condition; raises what the client ended with, or MachineError after LIMIT_S."""
    limit_s = time.monotonic() + LIMIT_S
    while not condition():
        if caller.error is not None:
            raise caller.error
        if time.monotonic() > limit_s:
            raise MachineError(f"{what} must answer, got nothing in {LIMIT_S:g} s.")
        await asyncio.sleep(POLL_S)


async def _named(name: str, rows: Awaitable[list[Row]]) -> list[Row]:
    return [{"scenario": name, **row} for row in await rows]


SCENARIOS: dict[str, Callable[[Stand], Awaitable[list[Row]]]] = {
    "Directory frozen": freeze_directories,
    "replica frozen": freeze_replicas,
    "backlog of five deadlines": drain_backlogs,
    "ten flaps": flap_links,
}
FIGURES = ("frozen_directory_s", "frozen_replica_s", "forwards_per_request", "flaps_survived")
