"""How every command of ours ends: one clear line for an error that the user can mend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from protos.codec import WireError
from trainer.errors import TeacherUnavailable

USER_ERRORS = (ValueError, OSError, TeacherUnavailable, WireError)
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


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
