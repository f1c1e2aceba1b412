"""What the two small fits share: a progress bar, the best weights so far, and their fit.json."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.common.atomic import write_json
from trainer.common.errors import InputError
from trainer.common.progress import progress_bar

FIT_NAME = "fit.json"
LOSS_DECAY = 0.95
"""Of the exponential mean that is shown; it plays no part in the fit."""


def fit_epochs(
    model: nn.Module,
    *,
    num_epochs: int,
    epoch_steps: int,
    patience: int,
    train_epoch: Callable[[int], Iterable[Tensor]],
    validate: Callable[[], Mapping[str, float]],
    select: str,
) -> dict[str, Any]:
    """Train epoch by epoch and leave the model with the weights of its best epoch on valid.

    Args:
        model: in train mode during an epoch, in eval mode while validated and afterwards.
        train_epoch: epoch number -> one detached mean loss per optimiser step.
        validate: metrics on valid.
        select: the metric that chooses the epoch; lower is better. After `patience` epochs without
            a better one the fit ends.

    Returns:
        For fit.json: seconds, epochs run, the best epoch (from 1), and the history on valid.
    """
    best: dict[str, Tensor] = {}
    best_epoch, history = 0, []
    start = time.monotonic()
    with progress_bar("loss", "valid") as progress:
        bar = progress.add_task("fitting", total=num_epochs * epoch_steps, loss="", valid="")
        console = progress.console
        for epoch in range(1, num_epochs + 1):
            model.train()
            shown = None
            for loss in train_epoch(epoch):
                value = float(loss)
                if not torch.isfinite(loss):
                    raise InputError(
                        f"the loss must be finite, got {value} in epoch {epoch}. "
                        "Use a smaller learning_rate."
                    )
                shown = value if shown is None else LOSS_DECAY * shown + (1 - LOSS_DECAY) * value
                progress.update(bar, advance=1, loss=f"loss {shown:.3f}")
            model.eval()
            history.append({"epoch": epoch, "train_loss": shown, **validate()})
            valid = f"valid {select} {history[-1][select]:.3f}"
            progress.update(bar, valid=valid)
            if not console.is_terminal:
                # A log keeps lines, not a bar that redraws itself.
                console.print(f"epoch {epoch}/{num_epochs} loss {shown:.3f} {valid}")
            if not best or history[-1][select] < history[best_epoch - 1][select]:
                best_epoch = epoch
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            elif epoch - best_epoch >= patience:
                break
    model.load_state_dict(best)
    return {
        "seconds": round(time.monotonic() - start, 2),
        "epochs": len(history),
        "best_epoch": best_epoch,
        "selected_by": f"lowest valid {select}",
        "history": history,
    }


def write_fit(folder: Path, fit: Mapping[str, Any]) -> None:
    """Write fit.json: how the model was fitted and how good it is."""
    write_json(folder / FIT_NAME, fit)
