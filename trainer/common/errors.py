"""Errors that their reader can put right, and their text.

`run_main` shows a UserError as one line. Whatever else is raised is a mistake of ours, and is shown
whole.
"""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something that a user gave, or the machine, must change: `<what> must be <rule>, got ...`.

    `details` are lines that `run_main` shows below it, one for each of many places.
    """

    def __init__(self, *args: object, details: Sequence[str] = ()) -> None:
        super().__init__(*args)
        self.details = tuple(details)


class InputError(UserError, ValueError):
    """A setting, an option or the content of a file is wrong."""


class MissingError(UserError, FileNotFoundError):
    """A file or folder that was named is not there."""


class MachineError(UserError, OSError):
    """The machine, its network or another process refuses what is asked of it."""


class UnreachableError(UserError, ConnectionError):
    """A process of ours that must run does not answer."""


class TeacherUnavailable(UserError, RuntimeError):
    """No teacher of a kind could be reached within its deadline or patience."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
