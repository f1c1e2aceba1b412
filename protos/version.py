"""The versions of the contract between students and teachers.

They cover the messages of teacher.proto, the handshake, and what lies in a reply block. A block has
a version of its own beside it (block_frame.py): what stores blocks outlives a stream.

Each end speaks all versions from an oldest one to its own; a stream has the highest that both do.
"""

WIRE_VERSION = 1
"""conkd.v1: the newest that this release speaks; cached targets belong to it."""
OLDEST_WIRE_VERSION = 1
"""The oldest that this release still speaks."""


def common_version(oldest: int, newest: int) -> int:
    """The highest version that this release and a peer of `oldest` to `newest` speak.

    Args:
        oldest: the peer's; 0: it does not say, and speaks `newest` alone.
        newest: the peer's; 0: it does not say.

    Returns:
        The version of a stream between them; 0 if there is none.
    """
    highest = min(newest, WIRE_VERSION)
    return highest if highest >= max(oldest or newest, OLDEST_WIRE_VERSION) else 0


def versions_text(oldest: int, newest: int) -> str:
    """A range of versions for people: "1", "1 to 3", or that it is not said."""
    if not newest:
        return "one that it does not name"
    return str(newest) if oldest in (0, newest) else f"{oldest} to {newest}"
