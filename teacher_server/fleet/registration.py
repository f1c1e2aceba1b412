"""What a teacher of another make says when it joins, checked; InputError names the bad field."""

from __future__ import annotations

import ipaddress
import re

from protos.limits import KIND_NAME
from protos.teacher_pb2 import RegisterRequest
from teacher_server.fleet.leases import Lease
from teacher_server.fleet.options import TAKEN_KIND
from trainer.common.errors import InputError
from trainer.security.addresses import check_address, host_of
from trainer.security.credentials import SecurityFiles, check_host

MAX_REGISTER_BYTES = 4096
NAME = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
OPTIONAL_NAME = re.compile(r"[A-Za-z0-9._-]{0,128}", re.ASCII)
MODEL = re.compile(r"[ -~]{0,256}")
LEASE_ID = re.compile(r"[A-Za-z0-9]{16,64}", re.ASCII)
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})", re.ASCII)
RULES = {
    "kind": (KIND_NAME, "1 to 64 of [a-z0-9_-], a letter first"),
    "replica_id": (NAME, "1 to 128 of [A-Za-z0-9._-]"),
    "weights_digest": (OPTIONAL_NAME, "at most 128 of [A-Za-z0-9._-]"),
    "model": (MODEL, "at most 256 printable ASCII characters"),
    "zone": (OPTIONAL_NAME, "at most 128 of [A-Za-z0-9._-]"),
}
REMEDY = "Start the Directory with --tls and --token-file, or --insecure (docs/operations.md)."


def lease_of(request: RegisterRequest, security: SecurityFiles) -> Lease:
    """The lease that is asked for.

    Args:
        request: from the network.
        security: of the Directory; its students refuse addresses beyond their machine without it.

    Raises:
        InputError: naming the field, its rule and its value; never the lease_id.
    """
    if request.ByteSize() > MAX_REGISTER_BYTES:
        raise InputError(
            f"a RegisterRequest must have at most {MAX_REGISTER_BYTES} bytes, got "
            f"{request.ByteSize()}. Shorten its names."
        )
    told = request.endpoint
    for name, (pattern, rule) in RULES.items():
        _check(f"endpoint.{name}", getattr(told, name), pattern, rule)
    if told.kind == TAKEN_KIND:
        raise InputError(f"endpoint.kind must not be {TAKEN_KIND}, got it. Rename the kind.")
    if not LEASE_ID.fullmatch(request.lease_id):
        raise InputError(
            "lease_id must be 16 to 64 letters and digits, got "
            f"{len(request.lease_id)} characters. Draw them at random."
        )
    _check_dialled(told.address, security)
    return Lease(
        kind=told.kind,
        address=told.address,
        replica_id=told.replica_id,
        pid=0,
        weights_digest=told.weights_digest,
        model=told.model,
        zone=told.zone,
        capacity=told.capacity,
        lease_id=request.lease_id,
    )


def _check(what: str, value: str, pattern: re.Pattern[str], rule: str) -> None:
    if not pattern.fullmatch(value):
        raise InputError(f"{what} must be {rule}, got {value[:80]!r}. Change it.")


def _check_dialled(address: str, security: SecurityFiles) -> None:
    """Refuse what is no address, and what would end a student that dials it."""
    what = "endpoint.address"
    check_address(what, address)
    host = host_of(address)
    try:
        is_wildcard = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        # Not the schemes of gRPC (dns:, unix:), which are no places that students know.
        _check(what, host, HOST, "the name or number of a host, and a port")
    else:
        if is_wildcard:
            raise InputError(
                f"{what} must be one that students can dial, got {address}. Give the machine's own."
            )
    check_host(what, host, security, remedy=REMEDY)
