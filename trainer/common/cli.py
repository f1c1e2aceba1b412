"""How every command of ours ends: one clear line for an error that the user can mend."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from protos.codec import WireError
from trainer.common.errors import TeacherUnavailable

USER_ERRORS = (ValueError, OSError, TeacherUnavailable, WireError)
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
TELLER_S = 60.0


class ToldElsewhere(SystemExit):
    """Raised on a rank that leaves because of an error that another rank tells."""

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
        run_main(lambda argv: _let_the_other_tell(main, argv))
    except SystemExit as end:
        code = end.code or 0
    if not isinstance(code, int):
        # Python's own way with other than a number.
        sys.stderr.write(f"{code}\n")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _let_the_other_tell(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """The launcher ends every rank as soon as one has failed: the one that tells must be first."""
    try:
        main(argv)
    except ToldElsewhere:
        time.sleep(TELLER_S)
        raise
