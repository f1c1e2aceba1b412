"""Machines that one has, looked at before anything is started on them.

A look is one login and one small shell program (`PROBE`), which needs nothing of ours. What it
finds is compared: Ray and torch want the same Python on all nodes, and all of them want the same
shared folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from cluster.machines.addresses import head_of, workers_of
from trainer.common.errors import InputError, UserError

MIN_PYTHON = (3, 10)
MIN_FREE_KIB = 1 << 20
MACHINES_AT_ONCE = 32
DEFAULT_SHARED = "/shared"
SHARED = re.compile(r"\bCONKD_SHARED=([\w./~$-]+)")
TOOLS = ("make", "rsync", "openssl", "c++")
# Lines of `name value`; a value may be empty.
PROBE = """
python=$HOME/conkd/.venv/bin/python
test -x "$python" || python=python3
echo python $("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
echo processor $(uname -m)
for tool in make rsync openssl; do command -v $tool >/dev/null || echo absent $tool; done
command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
  echo absent c++
shared={shared}
if test -d "$shared"; then
  echo folder $(stat -c %i "$shared")
  echo free $(df -Pk "$shared" | tail -1 | tr -s ' ' | cut -d ' ' -f 4)
  mark=$shared/.conkd-probe.$$
  (: > "$mark") 2>/dev/null && rm -f "$mark" && echo writable yes
fi
"""

Run = Callable[[str, str], str]
"""Run a shell program (second) on a machine (first); its output, or a UserError."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a look at one found."""

    python: str
    processor: str
    absent: tuple[str, ...] = ()
    """Programs that are not installed."""
    folder: str = ""
    """The number of the shared folder on its file system; empty if there is none."""
    free_kib: int = 0
    writable: bool = False


def check_machines(config: Mapping[str, Any], run: Run) -> None:
    """Look at all machines of a cluster's file, side by side.

    Raises:
        InputError: with a line for each fault; nothing was started.
    """
    addresses = (head_of(config), *(it for group in workers_of(config).values() for it in group))
    if len(addresses) == 1:
        raise InputError("The file must name machines besides the head, got none. Add addresses.")
    probe = PROBE.format(shared=shared_folder(config))
    with ThreadPoolExecutor(MACHINES_AT_ONCE) as pool:
        looks = list(pool.map(lambda address: _look(address, probe, run), addresses))
    found = {
        it: look for it, look in zip(addresses, looks, strict=True) if isinstance(look, Machine)
    }
    faults = [it for it in looks if isinstance(it, str)]
    faults += faults_of(found, shared=shared_folder(config))
    if faults:
        raise InputError(
            f"All machines must be ready and alike, got {len(faults)} faults. Nothing was started.",
            details=faults,
        )


def shared_folder(config: Mapping[str, Any]) -> str:
    """Where all machines have the shared folder, by the variable that the file sets."""
    for command in config.get("setup_commands", ()):
        named = SHARED.search(command)
        if named is not None:
            return named.group(1)
    return DEFAULT_SHARED


def faults_of(machines: Mapping[str, Machine], *, shared: str) -> list[str]:
    """What is wrong with single machines, and in what they differ, one line each."""
    faults = [
        f"{address}: {fault}"
        for address, machine in machines.items()
        for fault in _own_faults(machine, shared)
    ]
    for name, what in (("python", "Python"), ("processor", "processor"), ("folder", shared)):
        values = {it: getattr(machine, name) for it, machine in machines.items()}
        if len({it for it in values.values() if it}) > 1:
            told = ", ".join(f"{it}: {value}" for it, value in values.items() if value)
            faults.append(f"{what} must be the same on all machines, got {told}")
    return faults


def _own_faults(machine: Machine, shared: str) -> list[str]:
    faults = []
    if _version(machine.python) < MIN_PYTHON:
        least = ".".join(map(str, MIN_PYTHON))
        faults.append(f"Python must be {least} or newer, got {machine.python or 'none'}")
    if machine.absent:
        faults.append(f"{', '.join(TOOLS)} must be installed, got no {', '.join(machine.absent)}")
    if not machine.folder:
        faults.append(f"{shared} must be the shared folder, got no folder. Mount it there")
    elif not machine.writable:
        faults.append(f"{shared} must be a folder that can be written, got one that cannot")
    elif machine.free_kib < MIN_FREE_KIB:
        free = f"{machine.free_kib / 1024:.0f} MiB"
        faults.append(f"{shared} must have 1 GiB free, got {free}. Free some space there")
    return faults


def _look(address: str, probe: str, run: Run) -> Machine | str:
    """What was found there, or why nothing was."""
    try:
        return read_look(run(address, probe))
    except UserError as error:
        return f"{address} must answer by ssh, got: {error}"


def read_look(output: str) -> Machine:
    """What the lines of a probe say; lines of others, as of a login, are left out."""
    lines: Sequence[tuple[str, str, str]] = [it.partition(" ") for it in output.splitlines()]
    values = {name: value.strip() for name, _, value in lines}
    free = values.get("free", "")
    return Machine(
        python=values.get("python", ""),
        processor=values.get("processor", ""),
        absent=tuple(value for name, _, value in lines if name == "absent"),
        folder=values.get("folder", ""),
        free_kib=int(free) if free.isdecimal() else 0,
        writable=values.get("writable") == "yes",
    )


def _version(text: str) -> tuple[int, ...]:
    parts = text.split(".")
    return tuple(map(int, parts)) if all(it.isdecimal() for it in parts) else (0,)
