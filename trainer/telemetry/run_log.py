"""The log of a run on rank 0: metrics.jsonl, TensorBoard events and a progress bar."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from trainer.common.atomic import write_text
from trainer.common.errors import InputError, MachineError, first_line
from trainer.common.progress import progress_bar
from trainer.common.text_files import as_object, parse_json, read_text
from trainer.loss.watched import CLOSE_KINDS
from trainer.telemetry.run_totals import RunTotals

METRICS_NAME = "metrics.jsonl"
# Plain lines for logs and pipes, where a bar that redraws itself cannot be read.
PLAIN_EVERY_STEPS = 20
GROUPS = {
    "optimiser": ("learning_rate", "grad_norm", "skipped_steps", "loss_scale"),
    "loss": ("loss", "nll", "valid_nll", "gamma", "temperature"),
    "speed": ("step_s", "tokens_per_", "responses_per_s", "padding", "positions"),
    "gate": ("gate_", "lambda_", "recommended_share", "num_"),
    "closeness": tuple(
        f"{kind}_{it}" for kind in CLOSE_KINDS for it in ("student_mass", "agreement", "overlap")
    ),
    "cache": ("cache_",),
}
"""TensorBoard's group -> beginnings of the keys in it; the first that fits."""
OTHER_GROUP = "teachers"
VALID = "valid"


class RunLog:
    """Writes one JSON object per step; open on rank 0 only (keys: step_metrics.py)."""

    def __init__(self, folder: Path, *, total_steps: int, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS_NAME
        kept = _entries_until(path, first_step)
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._totals = RunTotals()
        for entry in kept:
            if "event" not in entry:
                self._totals.add(entry)
        self.valid_history = [entry for entry in kept if entry.get("event") == VALID]
        """The "valid" lines until the checkpoint."""
        self.problem: OSError | None = None
        """First write error; logging is off afterwards."""
        self._path = path
        self._file = path.open("a", encoding="utf-8")
        # Curves of an earlier run in this folder end where these begin.
        self._events = SummaryWriter(str(folder / "events"), purge_step=first_step + 1)
        self._console = Console(stderr=True)
        self._total_steps = total_steps
        self._progress = progress_bar("summary", console=self._console)
        self._task = self._progress.add_task(
            "distil", total=total_steps, completed=first_step, summary=""
        )

    def start(self, values: Mapping[str, Any]) -> None:
        """Show the bar and write the "start" line."""
        self._progress.start()
        self._write({"event": "start", **values})

    def close(self) -> None:
        """Flush everything; the bar stays as it is."""
        self._progress.stop()
        # What could not be written cannot be flushed either; `problem` holds the error.
        with contextlib.suppress(OSError) if self.problem else contextlib.nullcontext():
            self._events.close()
            self._file.close()

    def end(self) -> None:
        """Write the totals of the whole run, its earlier processes included."""
        self._write({"event": "end", **self._totals.summary()})

    def step(self, metrics: dict[str, Any]) -> None:
        """Write one line about one optimiser step, and advance the bar."""
        step = int(metrics["step"])
        curves = {
            key: value
            for key, value in metrics.items()
            if isinstance(value, (int, float)) and key != "step"
        }
        self._note(metrics, curves, step)
        self._totals.add(metrics)
        summary = summarise(metrics)
        self._progress.update(self._task, completed=step, summary=summary)
        if metrics["skipped_steps"]:
            text = f"step {step} skipped, loss scale now {metrics['loss_scale']:g}"
            self._console.print(text, highlight=False)
        if not self._console.is_terminal and (step % PLAIN_EVERY_STEPS == 0 or step == 1):
            left_s = float(metrics["step_s"]) * (self._total_steps - step)
            self._console.print(
                f"step {step}/{self._total_steps} {summary}, {left_s:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )

    def valid(self, step: int, nll: float) -> None:
        """Write one line about the loss on valid, in nats per token."""
        self._note({"event": VALID, "step": step, "nll": nll}, {"valid_nll": nll}, step)
        self._console.print(f"step {step} valid nll {nll:.3f}", highlight=False)

    def _note(self, values: Mapping[str, Any], curves: Mapping[str, float], step: int) -> None:
        # Not raised here: the other ranks are already in the next step, where all raise it.
        if self.problem is not None:
            return
        try:
            self._write(values)
            for key, value in curves.items():
                self._events.add_scalar(tag_of(key), value, step)
        except OSError as error:
            self.problem = MachineError(
                f"{self._path} must take a line about step {step}, got: {first_line(error)}. Make "
                "room and start the same command again."
            )

    def _write(self, values: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()


def read_valid_history(folder: Path, until_step: int) -> list[dict[str, Any]]:
    """The "valid" lines of a run's log up to a step; InputError if a line is broken."""
    entries = _entries_until(folder / METRICS_NAME, until_step)
    return [entry for entry in entries if entry.get("event") == VALID]


def tag_of(key: str) -> str:
    """The name of a curve in TensorBoard, which shows what is before the slash as one group."""
    group = next((it for it, starts in GROUPS.items() if key.startswith(starts)), OTHER_GROUP)
    return f"{group}/{key}"


def summarise(metrics: Mapping[str, Any]) -> str:
    """The main numbers of a step, in one short line."""
    text = f"loss {metrics['loss']:.3f}, {metrics['tokens_per_s']:.0f} tokens/s"
    if metrics["teacher_wait_s"] is not None:
        text += f", teacher wait {metrics['teacher_wait_s'] / metrics['step_s']:.1%}"
    return text


def _entries_until(path: Path, first_step: int) -> list[dict[str, Any]]:
    """The lines up to the checkpoint; later steps are repeated."""
    if not path.is_file() or first_step == 0:
        return []
    lines = read_text(path).splitlines()
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = as_object(parse_json(line, f"{path}:{number}"), f"{path}:{number}")
        except InputError:
            # A kill in the middle of a write tears the last line, which is past the checkpoint.
            if number == len(lines):
                break
            raise
        if entry.get("event") != "end" and entry.get("step", 0) <= first_step:
            entries.append(entry)
    return entries
