"""What happens to the teachers while students train, in the order in which it does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cluster.proof.machines import HEAD, STUDENT, TEACHER, Machines, replica_title
from trainer.common.errors import MachineError
from trainer.kinds.names import DIALOGUE

CUT_S = 15.0
ASLEEP_S = 15.0
AWAY_S = 30.0
# Of the sources on every host: what the next release of a dialogue teacher can do, too.
CHANGED = "teacher_server/scoring/teachers.py"
THIS_RELEASE = "description.capabilities.append(RANGES)"
NEXT_RELEASE = 'description.capabilities.extend([RANGES, "next"])'


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happens."""

    text: str
    act: Callable[[Machines], None]
    """Returns when all of it has been done, and not yet when all is well again."""


def kill_replica(machines: Machines) -> None:
    """A dialogue replica ends without a word."""
    machines.kill(replica_title(DIALOGUE), TEACHER)


def kill_directory(machines: Machines) -> None:
    """The Directory ends without a word."""
    machines.kill(replica_title("directory"), HEAD)


def cut_link(machines: Machines) -> None:
    """The first student's host is without a network for a while."""
    host = machines.lab[machines.names(STUDENT)[0]]
    host.unplug()
    time.sleep(CUT_S)
    host.plug_in()


def power_off(machines: Machines) -> None:
    """A teacher host loses its power, with all of its replicas."""
    machines.lab[machines.names(TEACHER)[-1]].power_off()


def power_on(machines: Machines) -> None:
    """It comes back, with an empty memory."""
    name = machines.names(TEACHER)[-1]
    machines.lab[name].power_on()
    machines.start_ray(name)


def to_none_and_back(machines: Machines) -> None:
    """No teacher at all for a while."""
    machines.teachers("scale", machines.none)
    time.sleep(ASLEEP_S)
    machines.teachers("scale", machines.replicas)


def upgrade(machines: Machines) -> None:
    """All replicas are replaced by those of the next release."""
    for name in (HEAD, *machines.names(TEACHER)):
        file = machines.lab[name].home / "conkd" / CHANGED
        text = file.read_text()
        if text.count(THIS_RELEASE) != 1:
            raise MachineError(f"{CHANGED} must have {THIS_RELEASE!r} once, got another release.")
        file.write_text(text.replace(THIS_RELEASE, NEXT_RELEASE))
    roll(machines)


def rotate_certificates(machines: Machines) -> None:
    """All replicas are replaced by those with certificates of another authority."""
    machines.new_certificates()
    roll(machines)


def roll(machines: Machines) -> None:
    """Replace all replicas and the Directory."""
    replaced = json.loads(machines.teachers("roll", "--json"))
    if not all(replaced.values()):
        raise MachineError(f"all replicas must be replaced, got {replaced}.")


def lose_head(machines: Machines) -> None:
    """The head loses its power; replicas and students do not need it."""
    machines.head.power_off()
    time.sleep(AWAY_S)


def mend_head(machines: Machines) -> None:
    """Ray's control plane goes on with what it had, and Serve starts the Directory there."""
    machines.head.power_on()
    machines.start_ray(HEAD)
    machines.wait_for_directory()


EVENTS: Mapping[str, Sequence[Event]] = {
    "replica": (Event(text="a replica is killed", act=kill_replica),),
    "link": (Event(text="a student's link is cut", act=cut_link),),
    "directory": (Event(text="the Directory is killed", act=kill_directory),),
    "power": (
        Event(text="a teacher host loses power", act=power_off),
        Event(text="it has power again", act=power_on),
    ),
    "none": (Event(text="no teachers, then all again", act=to_none_and_back),),
    "upgrade": (Event(text="a rolling upgrade", act=upgrade),),
    "certificates": (Event(text="new certificates, rolled", act=rotate_certificates),),
    "head": (
        Event(text="the head loses power", act=lose_head),
        Event(text="the head is back", act=mend_head),
    ),
}
"""In their order; those of one name belong together."""


def events_of(names: Iterable[str]) -> list[Event]:
    """The named events."""
    return [event for name in names for event in EVENTS[name]]
