"""A rank does not outlive the `deepspeed` command, or the guard, that started it.

DeepSpeed's command starts a launcher, and that one the ranks. On one machine it passes no signal
on: ended by SIGTERM, SIGHUP or SIGKILL it would leave the ranks training, and the same command
again would be a second run in the same folder.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import psutil

LAUNCHER = "deepspeed.launcher.launch"
# What starts it: DeepSpeed's command, or the guard of a cluster's student node.
COMMANDS = ("deepspeed", "cluster.students.launch_guard")
LOOK_S = 1.0
EXIT_TERMINATED = 143


def leave_with_launcher() -> None:
    """From now on, end this process once DeepSpeed's launcher or command has ended.

    A rank that something else has started is left alone: a shell may end before its jobs.
    """
    watched = launching_processes()
    if watched:
        threading.Thread(target=_watch, args=watched, name="launcher-watch", daemon=True).start()


def launching_processes() -> tuple[psutil.Process, ...]:
    """DeepSpeed's launcher and command above this process; () where something else started it."""
    launcher = psutil.Process().parent()
    command = launcher.parent() if launcher is not None and _is_launcher(launcher) else None
    if launcher is None or command is None or not _is_command(command):
        return ()
    return launcher, command


def _watch(*watched: psutil.Process) -> None:
    # is_running tells the process from a later one with its id.
    while all(_is_alive(each) for each in watched):
        time.sleep(LOOK_S)
    rank = os.environ.get("RANK", "0")
    sys.stderr.write(f"rank {rank} leaves: the deepspeed command that started it has ended\n")
    sys.stderr.flush()
    # A checkpoint that is being written is torn, and the one before it stays.
    os._exit(EXIT_TERMINATED)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _is_launcher(process: psutil.Process) -> bool:
    return LAUNCHER in _arguments(process)


def _is_command(process: psutil.Process) -> bool:
    return any(Path(each).name in COMMANDS for each in _arguments(process))


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
