"""How a run can be watched from outside: its metrics port and its spans."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.common.errors import InputError


def check_endpoint(name: str, endpoint: str) -> None:
    """ValueError if spans cannot be sent there."""
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise InputError(
            f"{name} must be the URL of an OTLP/HTTP receiver, such as "
            f"http://127.0.0.1:4318/v1/traces, got {endpoint}."
        )


MAX_PORT = 65535


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """How a run can be watched from outside (docs/operations.md)."""

    metrics_port: int | None = None
    """Prometheus metrics of rank r are served at this port plus r; None: nowhere."""
    metrics_host: str = "127.0.0.1"
    """Address of those ports; beyond this machine they are protected as a teacher's, by
    server.pem and server.key of `teachers.tls` and by `teachers.token_file`."""
    spans: str = ""
    """OTLP/HTTP receiver of OpenTelemetry spans; empty: none are made."""

    def __post_init__(self) -> None:
        if self.metrics_port is not None and not 1 <= self.metrics_port <= MAX_PORT:
            raise InputError(
                f"watch.metrics_port must be in [1, {MAX_PORT}], got {self.metrics_port}."
            )
        check_endpoint("watch.spans", self.spans)
