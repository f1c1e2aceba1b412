"""Faults of a fleet, each as a coroutine that injects one and returns once it is over."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cluster.bench.chaos.network import Network
from cluster.bench.fleet.faults import Fault
from cluster.bench.fleet.fleet import Fleet, ReplicaProcess
from trainer.kinds.names import DIALOGUE, RECOMMENDATION

STOPPED_S = 8.0
DIRECTORY_AWAY_S = 2.0
OUTAGE_S = 20.0
SHORT_OUTAGE_S = 5.0
HELD_S = 1.5


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One kind of trouble."""

    name: str
    inject: Callable[[Fleet], Awaitable[None]]
    survivors: float
    """Share of the undisturbed speed that is full speed from the fault on."""


async def kill_one(fleet: Fleet) -> None:
    """SIGKILL of one of two."""
    await fleet.kill(fleet.replicas(DIALOGUE)[0])


async def stop_one(fleet: Fleet) -> None:
    """SIGSTOP of one of two, and SIGCONT later: it still has its connections and old work."""
    replica = fleet.replicas(DIALOGUE)[0]
    replica.signal(signal.SIGSTOP)
    await asyncio.sleep(STOPPED_S)
    replica.signal(signal.SIGCONT)


async def drain_one(fleet: Fleet) -> None:
    """A graceful stop of one of two, which must end well."""
    await fleet.drain(fleet.replicas(DIALOGUE)[0])


async def restart_directory(fleet: Fleet) -> None:
    """SIGKILL of the Directory, and a new one without any lease on the same port."""
    await fleet.kill_directory()
    await asyncio.sleep(DIRECTORY_AWAY_S)
    fleet.start_directory()


async def all_gone(fleet: Fleet) -> None:
    """SIGKILL of every teacher of both kinds at once, and new ones later."""
    for replica in fleet.replicas():
        await fleet.kill(replica)
    await asyncio.sleep(OUTAGE_S)
    await fleet.heal()


async def kill_one_recommendation(fleet: Fleet) -> None:
    """SIGKILL of one of two recommendation teachers, with work in its hands."""
    await _kill_at_work(fleet, fleet.replicas(RECOMMENDATION)[:1])


async def recommendation_gone(fleet: Fleet) -> None:
    """SIGKILL of the recommendation teachers, with work in their hands, and new ones later."""
    await _kill_at_work(fleet, fleet.replicas(RECOMMENDATION))
    await asyncio.sleep(SHORT_OUTAGE_S)
    await fleet.heal()


async def _kill_at_work(fleet: Fleet, doomed: Sequence[ReplicaProcess]) -> None:
    """SIGKILL of recommendation teachers that hold requests.

    All of them are stopped before, so that requests pile up at each: a recommendation takes
    milliseconds, and most kills would find nothing. The others continue afterwards.
    """
    for replica in fleet.replicas(RECOMMENDATION):
        replica.signal(signal.SIGSTOP)
    await asyncio.sleep(HELD_S)
    for replica in doomed:
        await fleet.kill(replica)
    for replica in fleet.replicas(RECOMMENDATION):
        replica.signal(signal.SIGCONT)


def network_cut(network: Network) -> Scenario:
    """All packets between student and teachers vanish for a while."""

    async def inject(fleet: Fleet) -> None:
        network.cut()
        await asyncio.sleep(OUTAGE_S)
        network.heal()

    return Scenario(name="network cut for 20 s", inject=inject, survivors=1.0)


def faulty_one(fault: Fault) -> Callable[[Fleet], Awaitable[None]]:
    """One of two answers with a fault from now on."""

    async def inject(fleet: Fleet) -> None:
        fleet.inject(fleet.replicas(DIALOGUE)[0], fault)

    return inject


KILL = Scenario(name="kill one of two", inject=kill_one, survivors=0.5)
DIRECTORY = Scenario(name="Directory restarted", inject=restart_directory, survivors=1.0)
KILL_RECOMMENDATION = Scenario(
    name="kill one of two recommendation", inject=kill_one_recommendation, survivors=1.0
)
NO_RECOMMENDATION = Scenario(
    name="no recommendation for 5 s", inject=recommendation_gone, survivors=1.0
)
GARBAGE = Scenario(name="garbage", inject=faulty_one("garbage"), survivors=0.5)
SCENARIOS = (
    KILL,
    Scenario(name="stop one of two", inject=stop_one, survivors=0.5),
    Scenario(name="drain one of two", inject=drain_one, survivors=0.5),
    DIRECTORY,
    Scenario(name="all gone for 20 s", inject=all_gone, survivors=1.0),
    GARBAGE,
    Scenario(name="short rows", inject=faulty_one("short"), survivors=0.5),
    Scenario(name="never an answer", inject=faulty_one("never"), survivors=0.5),
)
