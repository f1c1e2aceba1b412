"""What a run of students is told to be, and on how many nodes it can be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.common.errors import InputError
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.engine.deepspeed_config import deepspeed_config

RESUME = "train.resume"


@dataclass(frozen=True, kw_only=True)
class RunOrder:
    """One `run`; a supervisor that is restarted gets it again."""

    name: str
    id: str
    """Drawn by the command: tells a supervisor that was restarted from a later run of the name."""
    folder: str
    """The run's, in the shared folder: its output, its log and the supervisor's state."""
    config: str
    """A copy of the config in that folder: every node reads the same."""
    overrides: tuple[str, ...]
    nodes: int
    min_nodes: int
    slots: int
    """Ranks of a node; 0: as many as it has GPUs, one without any."""
    wait_s: float
    """How long nodes are waited for."""

    def run_config(self) -> RunConfig:
        """The settings; InputError if they are wrong."""
        return load_config(RunConfig, Path(self.config), list(self.settings(goes_on=False)))

    def settings(self, *, goes_on: bool) -> tuple[str, ...]:
        """Overrides of the ranks; `goes_on`: from the checkpoints of an earlier attempt."""
        again = (f"{RESUME}=true",) if goes_on else ()
        return (*self.overrides, f"output={self.folder}", *again)

    def argv(self, *, goes_on: bool) -> tuple[str, ...]:
        """Arguments of trainer/main.py."""
        return ("--config", self.config, *self.settings(goes_on=goes_on))


def largest_fit(config: RunConfig, *, slots: int, nodes: int) -> int:
    """The largest number of at most `nodes` nodes whose ranks share the batch; 0: none do."""
    return next((each for each in range(nodes, 0, -1) if _fits(config, each * slots)), 0)


def check_sizes(config: RunConfig, order: RunOrder) -> None:
    """Raise InputError if the run cannot be on all its nodes, or never on so few as it may be."""
    if order.min_nodes > order.nodes:
        raise InputError(
            f"--min-nodes must be at most --nodes, got {order.min_nodes} and {order.nodes}. Lower "
            "it."
        )
    if order.slots:
        deepspeed_config(config, order.nodes * order.slots)


def _fits(config: RunConfig, ranks: int) -> bool:
    try:
        deepspeed_config(config, ranks)
    except InputError:
        return False
    return True
