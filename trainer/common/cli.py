"""Entry-point wrapper: a user error becomes one line on stderr and exit status 2."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from protos.codec import WireError
from trainer.common.errors import TeacherUnavailable, first_line

USER_ERRORS = (ValueError, OSError, TeacherUnavailable, WireError)
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
REPORT_GRACE_S = 60.0
# What torch's collectives say when a peer's process or machine has ended.
RANK_IS_GONE = (
    *("Timed out waiting", "Connection closed by peer", "Connection reset by peer"),
    *("Broken pipe", "NCCL communicator was aborted", "Watchdog caught collective operation"),
)


class ReportedByOtherRank(SystemExit):
    """Exit of a rank whose error another rank reports."""

    def __init__(self) -> None:
        super().__init__(EXIT_ERROR)


def run_main(main: Callable[[list[str]], None]) -> NoReturn:
    """Run a command's main and leave with 0, 2 for an error of the user's, 130 for Ctrl-C."""
    try:
        main(sys.argv[1:])
    except USER_ERRORS as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"error: {message}\n")
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(0)


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
        if isinstance(error, USER_ERRORS) or not is_gone:
            raise
        raise OSError(
            f"all ranks must take part, got one that is gone ({first_line(error)[:120]}). Look at "
            "the logs of the other ranks; the same command goes on from the last checkpoint."
        ) from error
