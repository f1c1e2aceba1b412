"""Run a command in the namespaces of another process, like ssh that passes signals on.

    python enter.py PID COMMAND [ARGUMENT ...]

SIGINT, SIGTERM, SIGHUP and SIGQUIT go on to the command; if this process is killed, so is the
command. The exit status is the command's.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# From linux/sched.h and linux/prctl.h.
NAMESPACES = {
    "mount": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
PR_SET_PDEATHSIG = 1
PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
LIBC = "libc.so.6"
REFUSED = 255  # as of ssh


def main(argv: list[str]) -> int:
    """Enter, start the command, wait; its exit status, 128 + the signal that ended it."""
    pid, *command = argv
    try:
        enter(int(pid))
    except OSError as error:
        print(f"process {pid} must run, got: {error.strerror}", file=sys.stderr)
        return REFUSED
    before = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON | {signal.SIGCHLD})
    # A pid namespace holds the children of a process that entered it, not the process.
    child = os.fork()
    if not child:
        _become(command, before)
    status = os.waitstatus_to_exitcode(_wait(child))
    return status if status >= 0 else 128 - status


def enter(pid: int) -> None:
    """Enter all namespaces of a process; OSError if it has ended."""
    process = os.pidfd_open(pid)
    libc = ctypes.CDLL(LIBC, use_errno=True)
    if libc.setns(process, sum(NAMESPACES.values())):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    os.close(process)


def _become(command: list[str], mask: set[signal.Signals | int]) -> None:
    try:
        ctypes.CDLL(LIBC).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in (signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(command[0], command)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _wait(child: int) -> int:
    while True:
        number = signal.sigwait(PASSED_ON | {signal.SIGCHLD})
        if number != signal.SIGCHLD:
            os.kill(child, number)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
