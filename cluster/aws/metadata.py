"""What EC2 says of the machine that this runs on (instance metadata, version 2)."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from dataclasses import dataclass

from trainer.common.errors import MachineError

ADDRESS = "http://169.254.169.254"
TIMEOUT_S = 5.0
TOKEN_S = 60


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """The service at an address; each request takes a token of its own."""

    address: str = ADDRESS

    def get(self, path: str) -> str | None:
        """The text below latest/meta-data/; None if there is none.

        Raises:
            MachineError: if nobody answers: this is no instance of EC2.
        """
        token = self._ask("PUT", "api/token", "X-aws-ec2-metadata-token-ttl-seconds", str(TOKEN_S))
        assert token is not None, "the service gives a token to everybody"
        return self._ask("GET", f"meta-data/{path}", "X-aws-ec2-metadata-token", token)

    def require(self, path: str) -> str:
        """As `get`, of what every node of ours has; MachineError if it is missing."""
        text = self.get(path)
        if text is None:
            raise MachineError(
                f"this instance must have the metadata {path}, got none. Start it with the "
                "instance profile of its type (python -m cluster setup FILE)."
            )
        return text

    def _ask(self, method: str, path: str, header: str, value: str) -> str | None:
        request = urllib.request.Request(
            f"{self.address}/latest/{path}", method=method, headers={header: value}
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            if error.code == http.client.NOT_FOUND:
                return None
            raise MachineError(self._silent(f"status {error.code}")) from error
        except OSError as error:
            raise MachineError(self._silent(str(error))) from error

    def _silent(self, got: str) -> str:
        return (
            f"the instance metadata at {self.address} must answer, got: {got}. This program is for "
            "nodes on EC2."
        )
