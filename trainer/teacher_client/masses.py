"""Whether a teacher gives the masses that a student needs, asked before any row is.

A block without one would be refused as well (protos/target_rows.py), but in the middle of a step.
"""

from __future__ import annotations

from protos.target_rows import ITEM_MASS
from protos.teacher_pb2 import Description
from trainer.teacher_client.handshake import Misfit


def check_masses(described: Description, where: str) -> None:
    """Refuse a teacher whose rows do not say what the gates read.

    Args:
        described: what the teacher says of itself.
        where: names it in an error, e.g. "at host:port".

    Raises:
        Misfit: naming the mass, and those that the teacher gives.
    """
    if ITEM_MASS not in described.masses:
        given = ", ".join(described.masses) or "none"
        raise Misfit(
            f"the {described.kind} teacher {where} must give the mass {ITEM_MASS}, which the gates "
            f"read, got {given}. Serve a teacher whose Description lists it under masses."
        )
