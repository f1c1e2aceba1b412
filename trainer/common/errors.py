"""User errors beside ValueError and OSError, and their text."""

from __future__ import annotations


class TeacherUnavailable(RuntimeError):
    """No teacher of a kind could be reached within its deadline or patience."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class name if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
