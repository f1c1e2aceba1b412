"""The errors that a user can meet and mend, beside ValueError and OSError."""

from __future__ import annotations


class TeacherUnavailable(RuntimeError):
    """No teacher of a kind could be reached within its deadline or patience."""
