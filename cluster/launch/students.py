"""How a student's ranks are started, on the devices that CUDA_VISIBLE_DEVICES leaves them.

The `deepspeed` command ignores that variable beside a number of ranks, and takes indices alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cluster.launch.ports import free_port
from trainer.common.devices import (
    VARIABLE,
    DeviceList,
    device_indices,
    driver_devices,
    names_mig,
)
from trainer.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class StudentStart:
    """The beginning of a student's command, and what it adds to the environment."""

    argv: tuple[str, ...]
    env: dict[str, str]


def student_start(
    num_ranks: int,
    *,
    visible: str | None,
    python: Path,
    script: str = "trainer/main.py",
    devices: DeviceList = driver_devices,
) -> StudentStart:
    """Start `script` on `num_ranks` ranks.

    Args:
        num_ranks: ranks of this machine.
        visible: CUDA_VISIBLE_DEVICES, or None: every device, or a machine without one.
        python: interpreter, beside which `deepspeed` lies.
        script: what every rank runs.
        devices: the driver's list.

    Raises:
        InputError: if `visible` has fewer devices than ranks, or what this machine has not.
    """
    if names_mig(visible) and num_ranks == 1:
        # A process sees one instance of a MIG device, and the deepspeed command none.
        module = script.removesuffix(".py").replace("/", ".")
        return StudentStart(argv=(str(python), "-m", module), env={})
    port = ("--master_port", str(free_port()))
    if visible is None:
        ranks = ("--num_accelerators", str(num_ranks))
        return StudentStart(argv=("deepspeed", *ranks, *port, script), env={})
    chosen = device_indices(visible, devices)[:num_ranks]
    if len(chosen) < num_ranks:
        raise InputError(
            f"{VARIABLE} must name a device for each of {num_ranks} ranks, got {visible!r}. "
            "Name more, or unset it."
        )
    include = f"localhost:{','.join(map(str, chosen))}"
    # The driver's list is in this order; CUDA's own may be another. Indices mean CUDA's own.
    named = any(not part.strip().lstrip("-").isdecimal() for part in visible.split(","))
    return StudentStart(
        argv=("deepspeed", "--include", include, *port, script),
        env={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if named else {},
    )
