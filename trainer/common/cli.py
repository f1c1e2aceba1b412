"""Entry-point wrapper: an error of the user's becomes one line on stderr and exit status 2."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn, TypeVar

from trainer.common.errors import MachineError, UserError, first_line
from trainer.common.machine import limit_threads

ResultT = TypeVar("ResultT")

DEBUG = "--debug"
EXIT_ERROR = 2
EXIT_MISTAKE = 1
EXIT_INTERRUPTED = 130
EXIT_UNREAD = 141
REPORT_GRACE_S = 60.0
# What torch's collectives say when a peer's process or machine has ended.
RANK_IS_GONE = (
    *("Timed out waiting", "Connection closed by peer", "Connection reset by peer"),
    *("Broken pipe", "NCCL communicator was aborted", "Watchdog caught collective operation"),
)

# What the operating system may refuse of a path, and what its user can do.
REMEDIES = {
    errno.ENOENT: "Check the path.",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free some space there."),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Check its owner and mode, or name another path."),
    errno.EROFS: "Name a path that can be written.",
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
        "Name another path.",
    ),
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
    errno.EIO: "Look into the disk.",
}


class ReportedByOtherRank(SystemExit):
    """Exit of a rank whose error another rank reports."""

    def __init__(self) -> None:
        super().__init__(EXIT_ERROR)


def once_per_node(check: Callable[[], ResultT]) -> ResultT:
    """What `check` returns on every rank; its errors are shown by the first rank of a node alone.

    Before the ranks meet, so that a mistake in a command is one line and not one per process.
    """
    try:
        return check()
    except (UserError, OSError):
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise
        raise ReportedByOtherRank from None


def run_main(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a command's main and leave.

    The status is 0, 2 for an error of the user's (one line), 1 for a mistake of ours (with its
    traceback), 130 for Ctrl-C, 141 if nobody reads what is printed. --debug anywhere among the
    arguments adds the traceback to an error of the user's too.
    """
    limit_threads()
    argv = [argument for argument in sys.argv[1:] if argument != DEBUG]
    debug = len(argv) < len(sys.argv) - 1
    try:
        main(argv)
    except BrokenPipeError:
        # As a shell's own commands do; what Python flushes at its end must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_UNREAD)
    except Exception as error:
        sys.exit(_report(error, debug=debug))
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


def _report(error: Exception, *, debug: bool) -> int:
    """Say what went wrong; the status to leave with."""
    message = _message(error)
    if debug or message is None:
        traceback.print_exception(error)
    if message is None:
        sys.stderr.write("This is a mistake of ours, not yours. Please report the lines above.\n")
        return EXIT_MISTAKE
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    for line in error.details if isinstance(error, UserError) else ():
        sys.stderr.write(f"  {' '.join(line.split())}\n")
    return EXIT_ERROR


def _message(error: Exception) -> str | None:
    """What the user can put right, also where the operating system says it; None for a mistake."""
    if isinstance(error, UserError):
        return str(error)
    if not isinstance(error, OSError) or error.errno not in REMEDIES:
        return None
    what = error.filename if error.filename is not None else "what is written"
    return f"{what} must be usable, got: {error.strerror}. {REMEDIES[error.errno]}"


def run_rank(main: Callable[[list[str]], None]) -> NoReturn:
    """Run the main of a rank, and leave as `run_main` does but without taking Python down.

    Threads of Gloo live on after its groups are destroyed (torch 2.13: `pt_gloo_runloop`). One that
    gives back a tensor while the interpreter ends kills the process with SIGABRT ("terminate called
    without an active exception"): once in some hundred runs on a busy machine, and when everything
    was done and written.
    """
    code: object = 0
    try:
        run_main(lambda argv: _wait_for_reporting_rank(main, argv))
    except SystemExit as end:
        code = end.code or 0
    if not isinstance(code, int):
        # Python's own way with other than a number.
        sys.stderr.write(f"{code}\n")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait_for_reporting_rank(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """The launcher kills all ranks when one has failed, so the reporting rank must exit first."""
    try:
        main(argv)
    except ReportedByOtherRank:
        time.sleep(REPORT_GRACE_S)
        raise
    except RuntimeError as error:
        # A teacher's connection may be reset, too.
        is_gone = any(text in str(error) for text in RANK_IS_GONE)
        if isinstance(error, UserError) or not is_gone:
            raise
        raise MachineError(
            f"all ranks must take part, got one that is gone ({first_line(error)[:120]}). Look at "
            "the logs of the other ranks; the same command goes on from the last checkpoint."
        ) from error
