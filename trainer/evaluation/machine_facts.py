"""The machine that figures were made on."""

from __future__ import annotations

from typing import Any

import torch

from trainer.common.machine import num_cpus


def machine_facts() -> dict[str, Any]:
    """Cores, threads, library and device, as reports have them."""
    return {
        "cores": num_cpus(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def machine_text() -> str:
    """The same on one line."""
    facts = machine_facts()
    return (
        f"{facts['device']}, {facts['cores']} cores, {facts['threads']} threads, "
        f"torch {facts['torch']}"
    )
