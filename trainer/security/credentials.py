"""The certificates and the token that protect our connections: their paths and their checks.

Configs, Ray and our state files hold paths alone: a secret is read where it is used.
docs/operations.md shows how to make the files and which node needs which.
"""

from __future__ import annotations

import datetime
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from trainer.common.errors import InputError
from trainer.security.addresses import is_loopback

CA_NAME = "ca.pem"
# The one name in every server's certificate. Where a replica will run, and so its address and its
# port, is known only once it runs, while certificates are made before: clients check this name
# instead of the address. It names a role in a CA that signs for nobody else; which replica answers
# is checked by its id in the handshake.
SERVER_NAME = "teachers.conkd.internal"
# What a bearer token may consist of (RFC 6750), and long enough not to be guessed.
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{32,1024}=*")
STUDENT_REMEDY = (
    "Set teachers.tls and teachers.token_file (docs/operations.md), or teachers.insecure=true on a "
    "network that you trust."
)

Role = Literal["server", "client"]


@dataclass(frozen=True, kw_only=True)
class SecurityFiles:
    """Protection of the connections of one process: paths, never the secrets themselves."""

    tls: str | None = None
    """Folder with ca.pem and server.pem, server.key or client.pem, client.key; None: no TLS."""
    token_file: str | None = None
    """File with the fleet's bearer token, readable by its owner alone; None: no token."""
    insecure: bool = False
    """Allow addresses beyond this machine without both of these."""


NO_SECURITY = SecurityFiles()


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Our certificates and key, and the CA that we trust; all PEM."""

    ca: bytes
    certificates: bytes
    """Our own, followed by the intermediate ones, if any."""
    key: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """The secrets of a SecurityFiles, checked."""

    identity: Identity | None
    token: str | None = field(repr=False)


def read_credentials(files: SecurityFiles, role: Role) -> Credentials:
    """The secrets of one side.

    Raises:
        InputError: if a file cannot be read, is invalid, or holds a secret that others may read.
    """
    return Credentials(
        identity=None if files.tls is None else read_identity(Path(files.tls), role),
        token=None if files.token_file is None else read_token(Path(files.token_file)),
    )


def read_identity(folder: Path, role: Role) -> Identity:
    """Certificates and key of one role; raises as `read_credentials`."""
    ca_path, path, key_path = (folder / name for name in (CA_NAME, f"{role}.pem", f"{role}.key"))
    identity = Identity(
        ca=_read(ca_path), certificates=_read(path), key=_read(key_path, is_secret=True)
    )
    _parse_certificates(ca_path, identity.ca)
    certificate = _parse_certificates(path, identity.certificates)[0]
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begin <= datetime.datetime.now(datetime.timezone.utc) <= end:
        raise InputError(
            f"{path} must be valid now, got a certificate for {begin:%Y-%m-%d %H:%M} to "
            f"{end:%Y-%m-%d %H:%M} UTC. Make new ones, or set the clock."
        )
    try:
        key = load_pem_private_key(identity.key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # TypeError stands for a key with a password.
        raise InputError(
            f"{key_path} must be a private key in PEM without a password, got: {error}. "
            "Make a new set, or write the key again."
        ) from error
    if key.public_key() != certificate.public_key():
        raise InputError(f"{key_path} must be the key of {path}, got another. Copy both again.")
    return identity


def read_token(path: Path) -> str:
    """The bearer token in a file; raises as `read_credentials`."""
    text = _read(path, is_secret=True).decode("ascii", errors="replace").strip()
    if not TOKEN.fullmatch(text):
        # Not the token itself: errors end up in logs.
        raise InputError(
            f"{path} must hold one token of 32 to 1024 letters, digits and ._~+/-, got {len(text)} "
            "characters. Make one with: openssl rand -hex 32"
        )
    return text


def check_host(what: str, host: str, files: SecurityFiles, *, remedy: str) -> None:
    """Raise InputError if a host is beyond this machine and its connections are unprotected."""
    is_protected = files.tls is not None and files.token_file is not None
    if not (is_loopback(host) or is_protected or files.insecure):
        raise InputError(
            f"{what} must be a loopback address without TLS and a token, got {host}. {remedy}"
        )


def _read(path: Path, *, is_secret: bool = False) -> bytes:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            # As ssh does: refuse a secret that others can read.
            if is_secret and mode & 0o077:
                raise InputError(
                    f"{path} must be readable by its owner alone, got mode {mode:04o}. "
                    f"Run: chmod 600 {path}"
                )
            return file.read()
    except OSError as error:
        # Not OSError, on which clients retry as if the server were not up yet.
        raise InputError(
            f"{path} must be a file that we may read, got: {error.strerror}. "
            "docs/operations.md says which files a node needs."
        ) from error


def _parse_certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise InputError(
            f"{path} must hold certificates in PEM, got: {error}. Make a new set, or copy it again."
        ) from error
