"""All checks of one teacher, one after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from protos.conformance.caller import Caller, NoAnswer, told
from protos.conformance.caller_checks import CALLER_CHECKS
from protos.conformance.description_checks import DESCRIPTION_CHECKS, HANDSHAKE_CHECKS
from protos.conformance.error_checks import ERROR_CHECKS
from protos.conformance.outcomes import Check, Failed, NotApplicable, Result
from protos.conformance.probes import Probes
from protos.conformance.row_checks import ROW_CHECKS
from protos.conformance.stream_checks import STREAM_CHECKS
from protos.conformance.temperature_checks import TEMPERATURE_CHECKS
from protos.target_rows import WireError
from protos.teacher_pb2 import Description
from trainer.common.errors import MachineError
from trainer.security.channels import ChannelFactory

CHECKS = (
    *HANDSHAKE_CHECKS,
    *CALLER_CHECKS,
    *ROW_CHECKS,
    *TEMPERATURE_CHECKS,
    *STREAM_CHECKS,
    *ERROR_CHECKS,
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """How a teacher did."""

    address: str
    about: Description
    results: Sequence[Result]
    seconds: float

    @property
    def failed(self) -> int:
        """Checks that failed."""
        return sum(each.outcome == "failed" for each in self.results)


def check_teacher(
    address: str,
    channels: ChannelFactory,
    *,
    timeout_s: float,
    checks: Sequence[Check] = CHECKS,
) -> Report:
    """Check the teacher at host:port; `timeout_s` is for each call.

    Its Description is checked first, whatever the `checks`.

    Raises:
        MachineError: if no teacher describes itself there.
        InputError: if the address is beyond this machine and nothing protects what goes there.
    """
    started_s = time.monotonic()
    try:
        caller = Caller(address, channels, timeout_s)
    except grpc.RpcError as error:
        raise MachineError(
            f"a teacher must describe itself at {address}, got {told(error)}. Is it up, and does "
            "it serve conkd.v1.Teacher?"
        ) from error
    try:
        results = _run_all(caller, checks)
    finally:
        caller.close()
    seconds = time.monotonic() - started_s
    return Report(address=address, about=caller.about, results=results, seconds=seconds)


def _run_all(caller: Caller, checks: Sequence[Check]) -> list[Result]:
    probes = Probes(caller.about)
    results = [_run(check, caller, probes) for check in DESCRIPTION_CHECKS]
    if any(each.outcome == "failed" for each in results):
        # Probes are made of it.
        why = "its Description must be right first"
        skipped = [Result(name=it.name, outcome="not applicable", detail=why) for it in checks]
        return [*results, *skipped]
    return [*results, *(_run(check, caller, probes) for check in checks)]


def _run(check: Check, caller: Caller, probes: Probes) -> Result:
    try:
        return Result(name=check.name, outcome="passed", detail=check.run(caller, probes))
    except NotApplicable as why:
        return Result(name=check.name, outcome="not applicable", detail=str(why))
    except (Failed, NoAnswer, WireError) as problem:
        return Result(name=check.name, outcome="failed", detail=str(problem))
    except grpc.RpcError as error:
        detail = f"the call must end with OK, got {told(error)}."
        return Result(name=check.name, outcome="failed", detail=detail)
