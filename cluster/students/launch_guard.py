"""Runs a student node's launcher, and leaves none of its processes behind.

    python -m cluster.students.launch_guard PROGRAM ARGUMENT...

Lines on stdin say until when the launcher may run, in seconds of this machine's monotonic clock.
It ends with all that it started when that time is over, when nobody can write a line any more (the
actor that started it was killed, or Ray on this node), and when the launcher has ended. The guard
is a subreaper: a process that leaves the launcher's group or session is found, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

import psutil

from cluster.launch.reaper import become_subreaper

LOOK_S = 0.25
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Exit statuses that no launcher has: it passes on those of ranks, 1, 2, 130, 141 or a signal's.
EXIT_LEASE_OVER = 75
EXIT_ABANDONED = 76


def main(argv: list[str]) -> int:
    """Run the launcher to its end or to that of its lease; the exit status."""
    become_subreaper()
    libc = ctypes.CDLL(None)

    def end_with_guard() -> None:
        # The launcher ends its ranks at SIGTERM.
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    launcher = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=end_with_guard
    )
    try:
        return _watch(launcher)
    finally:
        _end_all(launcher)


def _watch(launcher: subprocess.Popen[bytes]) -> int:
    until_s, rest = None, b""
    while launcher.poll() is None:
        if select.select([sys.stdin], [], [], LOOK_S)[0]:
            content = os.read(sys.stdin.fileno(), 4096)
            if not content:
                return EXIT_ABANDONED
            *lines, rest = (rest + content).split(b"\n")
            until_s = max([float(line) for line in lines] + ([until_s] if until_s else []))
        if until_s is not None and time.monotonic() > until_s:
            return EXIT_LEASE_OVER
    return launcher.returncode if launcher.returncode >= 0 else 128 - launcher.returncode


def _end_all(launcher: subprocess.Popen[bytes]) -> None:
    """Kill and reap until no descendant is left: orphans become children of this process."""
    while True:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            launcher.returncode = launcher.returncode or 0  # it was reaped here
            return
        time.sleep(LOOK_S / 5)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
