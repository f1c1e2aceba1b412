"""Run one command, and adopt and reap every process that the command leaves behind.

    python reaper.py FD COMMAND [ARGUMENT ...]

An orphan becomes a child of its nearest subreaper, whatever its session and environment: the
descendants of this process are exactly what the command started. It exits with the last of them.
Two RECORDs go to FD: (errno or 0, process id) at the start, (0, exit status) at the end.

Only Linux has subreapers. On other systems a daemon becomes a child of process 1 and is lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import subprocess
import sys

RECORD = struct.Struct("=ii")
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main(argv: list[str]) -> None:
    """Start the command and wait for all of its descendants."""
    report = int(argv[0])
    try:
        become_subreaper()
        command = subprocess.Popen(argv[1:], start_new_session=True)
    except OSError as error:
        os.write(report, RECORD.pack(error.errno or errno.EIO, 0))
        return
    # If the launcher was killed, the pipe has no reader.
    with contextlib.suppress(BrokenPipeError):
        os.write(report, RECORD.pack(0, command.pid))
    reap(command, report)


def become_subreaper() -> None:
    """Adopt orphaned descendants from now on; OSError if the kernel refuses."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def reap(command: subprocess.Popen[bytes], report: int) -> None:
    """Reap children until none is left; report the status of the command."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return
        if pid == command.pid:
            command.returncode = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(BrokenPipeError):
                os.write(report, RECORD.pack(0, command.returncode))


if __name__ == "__main__":
    main(sys.argv[1:])
