"""The errors that a user can meet and mend, beside ValueError and OSError, and their words."""

from __future__ import annotations


class TeacherUnavailable(RuntimeError):
    """No teacher of a kind could be reached within its deadline or patience."""


def first_line(error: BaseException) -> str:
    """What an error says first, for a message of ours; its name if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
