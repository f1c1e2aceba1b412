"""The version of the contract between students and teachers.

It covers the messages of teacher.proto, the handshake, and what lies in a reply block. A block has
a version of its own beside it (block_frame.py): what stores blocks outlives a stream.
"""

WIRE_VERSION = 1
"""conkd.v1: both ends of a stream must have it, and cached targets belong to it."""
