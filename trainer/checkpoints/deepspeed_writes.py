"""Collect checkpoint write errors and raise them after all ranks have tried.

If a write fails, DeepSpeed raises on that rank while the others wait in a barrier for ever. It has
no hook for such errors, so the `save` method of its checkpoint writer is wrapped. The two scripts
that rank 0 would copy beside the files do not go through it and are not needed: their method does
nothing. tests/system/test_resume.py checks that a full
disk is still noticed, and that there are no scripts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.common.errors import MachineError, first_line


class CheckpointWrites:
    """Collects the errors of a DeepSpeed engine's checkpoint writer."""

    def __init__(self, engine: Any) -> None:
        self.problems: list[Exception] = []
        writer = engine.checkpoint_engine
        save = writer.save

        # DeepSpeed names its arguments.
        def try_to_save(state_dict: dict[str, Any], path: str) -> None:
            try:
                save(state_dict, path)
            except (OSError, RuntimeError) as error:
                self.problems.append(error)

        writer.save = try_to_save
        engine._copy_recovery_script = lambda _folder: None

    def error(self, step: int, path: Path, before: int) -> OSError | None:
        """The error of this rank, if any; `before`: the step of the newest whole checkpoint."""
        if not self.problems:
            return None
        first = first_line(self.problems[0])
        return MachineError(
            f"the checkpoint of step {step} must be written to {path}, got: {first}. Make room and "
            f"start the same command again: it goes on from step {before}."
        )
