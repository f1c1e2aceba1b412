"""GPUs and the machines that hold them, from their data sheets; nothing here was measured by us."""

from __future__ import annotations

from dataclasses import dataclass

# What of a data sheet's figures a well-written program gets. Assumed: published trainings of
# language models in bf16 report .35 to .45 of the arithmetic; copies reach .8 of the memory's.
ARITHMETIC_SHARE = 0.4
MEMORY_SHARE = 0.8


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator."""

    name: str
    flops: float
    """bf16 with float32 sums, dense, a second."""
    bytes_per_s: float
    """Of its memory."""

    def seconds(self, *, flops: float, num_bytes: float) -> float:
        """Time of work that is bound by arithmetic or by memory, whichever takes longer."""
        arithmetic_s = flops / (ARITHMETIC_SHARE * self.flops)
        return max(arithmetic_s, num_bytes / (MEMORY_SHARE * self.bytes_per_s))


@dataclass(frozen=True, kw_only=True)
class Node:
    """A machine of a cloud: its devices and its network."""

    instance_type: str
    device: Device
    num_devices: int
    link_gbit: float
    """Bandwidth of its network, 10^9 bits a second each way."""


A10G = Device(name="A10G", flops=70e12, bytes_per_s=600e9)
A100 = Device(name="A100", flops=312e12, bytes_per_s=1_555e9)
H100 = Device(name="H100", flops=989.4e12, bytes_per_s=3_350e9)

NODES = {
    "A10G": Node(instance_type="g5.xlarge", device=A10G, num_devices=1, link_gbit=10.0),
    "A100": Node(instance_type="p4d.24xlarge", device=A100, num_devices=8, link_gbit=400.0),
    "H100": Node(instance_type="p5.48xlarge", device=H100, num_devices=8, link_gbit=3_200.0),
}
"""Device -> the smallest machine of Amazon's that has it."""
