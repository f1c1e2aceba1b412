"""Names and contents of what nodes read from AWS's Parameter Store.

One parameter a role holds all that its nodes need: the secrets, and where the shared folder is.
It is encrypted, and the role's policy (policies.py) names it alone.
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cluster.aws.roles import ROLES, Role

PREFIX = "/conkd"
MAX_BYTES = 4096
"""Of a parameter of the free sort."""
DAYS = 365
HEAD = "head"
"""As the place of the shared folder: the head exports it."""
RAY_TOKEN = ".ray/auth_token"
TOKEN = "conkd-tls/token"
CLIENT = ("ca.pem", "client.pem", "client.key")
SERVER = ("ca.pem", "server.pem", "server.key")
# Files below the home of a node. A student cannot pass for a teacher: it has no server's key.
FILES: Mapping[Role, tuple[str, ...]] = {
    "head": (
        *(RAY_TOKEN, TOKEN),
        *(f"conkd-tls/{it}" for it in CLIENT),
        *(f"conkd-tls-server/{it}" for it in (*SERVER, "client.pem", "client.key")),
    ),
    "teacher": (RAY_TOKEN, TOKEN, *(f"conkd-tls-server/{it}" for it in SERVER)),
    "student": (RAY_TOKEN, TOKEN, *(f"conkd-tls/{it}" for it in CLIENT)),
}


def secret_parameter(profile: str) -> str:
    """Where the secrets of a role lie; `profile` is the name of the IAM role, too."""
    return f"{PREFIX}/secrets/{profile}"


def key_parameter(key_name: str) -> str:
    """Where the SSH key lies, for those who use the cluster; no node may read it."""
    return f"{PREFIX}/ssh/{key_name}"


def new_secrets(shared: str) -> dict[Role, dict[str, str]]:
    """Content of each role's parameter: file's name -> its text, once, and the shared folder."""
    from teacher_server.fleet.certificates import make_certificates

    with tempfile.TemporaryDirectory(prefix="conkd-setup-") as folder:
        paths = make_certificates(Path(folder) / "tls", days=DAYS)
        made = {it.name: it.read_text() for it in paths}
    made |= {Path(it).name: secrets.token_hex(32) for it in (RAY_TOKEN, TOKEN)}
    return {
        role: {
            "role": role,
            "shared": shared,
            **{name: made[name] for name in sorted({Path(it).name for it in FILES[role]})},
        }
        for role in ROLES
    }


def files_of(content: Mapping[str, str]) -> dict[str, str]:
    """Path below a node's home -> text, from the content of its role's parameter."""
    paths = next(paths for role, paths in FILES.items() if role == content["role"])
    return {path: content[Path(path).name] for path in paths}
