"""Fit the turn classifier (Eq. 12) and freeze it: does the next response mention a movie?

B examples of a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.config.pretrain import ClassifierConfig
from trainer.data.examples import Example
from trainer.data.prepared import load_prepared
from trainer.evaluation.turns import gold_turns, majority_turns, turn_scores
from trainer.models.turn_classifier import (
    GEN,
    REC,
    ClassifierShape,
    TurnClassifier,
    check_classifier_fits,
    export_classifier,
)
from trainer.pretrain.fitting import fit_epochs, write_fit

EVALUATION_BATCH = 128
WINDOW_BATCHES = 8
"""Batches whose examples are sorted by length together: less padding, still shuffled."""


def fit_classifier(config: ClassifierConfig, output: Path) -> None:
    """Fit, choose the epoch with the lowest valid loss, and write the frozen model and fit.json.

    Raises:
        FileNotFoundError: if the prepared folder is not whole.
        ValueError: if it does not fit its manifest.
    """
    data = load_prepared(Path(config.data))
    shape = ClassifierShape(
        vocab_size=data.vocabulary.size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        max_tokens=config.max_tokens,
    )
    check_classifier_fits(shape)
    torch.manual_seed(config.seed)
    splits = {split: data.examples(split) for split in ("train", "valid", "test")}
    model = TurnClassifier(shape, dropout=config.dropout)
    fit = _fit(config, model, splits["train"], splits["valid"])
    fit["metrics"] = {split: evaluate(model, splits[split]) for split in ("valid", "test")}
    fit["majority"] = {
        split: turn_scores(
            majority_turns(splits["train"], len(splits[split])), gold_turns(splits[split])
        )
        for split in ("valid", "test")
    }
    export_classifier(output, model.eval(), data.vocabulary)
    write_fit(output, fit | {"seed": config.seed, "config": dataclasses.asdict(config)})


def labels(examples: Sequence[Example]) -> Tensor:
    """1 where the response mentions a movie, else 0; int64 [B]."""
    return torch.from_numpy(gold_turns(examples).astype(np.int64))


@torch.no_grad()
def evaluate(model: TurnClassifier, examples: Sequence[Example]) -> dict[str, float]:
    """Accuracy, F1 and mean cross entropy (nats) of a model in eval mode."""
    logits = [
        model(*model.collate([e.context_ids for e in examples[i : i + EVALUATION_BATCH]]))
        for i in range(0, len(examples), EVALUATION_BATCH)
    ]
    logits_B2 = torch.cat(logits)
    recommends_B = (logits_B2[:, REC] > logits_B2[:, GEN]).numpy()
    loss = float(F.cross_entropy(logits_B2, labels(examples)))
    return turn_scores(recommends_B, gold_turns(examples)) | {"loss": loss}


def shuffled_batches(
    lengths: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Every example once, in shuffled batches of examples of similar length."""
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), WINDOW_BATCHES * batch_size):
        window = order[start : start + WINDOW_BATCHES * batch_size]
        window = window[np.argsort(lengths[window], kind="stable")]
        batches += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _fit(
    config: ClassifierConfig, model: TurnClassifier, train: list[Example], valid: list[Example]
) -> dict:
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    epoch_steps = -(-len(train) // config.batch_size)
    last_step = config.epochs * epoch_steps

    def rate(step: int) -> float:
        """Linear warm-up, then linear decay to 0 at the last step."""
        warm = (step + 1) / (config.warmup_steps + 1)
        return min(1.0, warm, (last_step - step) / max(1, last_step - config.warmup_steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    lengths = np.array([min(len(e.context_ids), config.max_tokens) for e in train])
    gold_S = labels(train)

    def train_epoch(epoch: int) -> Iterator[Tensor]:
        rng = np.random.default_rng([config.seed, epoch])
        for rows in shuffled_batches(lengths, config.batch_size, rng):
            logits_B2 = model(*model.collate([train[row].context_ids for row in rows]))
            loss = F.cross_entropy(logits_B2, gold_S[torch.from_numpy(rows)])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimiser.step()
            schedule.step()
            yield loss.detach()

    return fit_epochs(
        model,
        num_epochs=config.epochs,
        epoch_steps=epoch_steps,
        patience=config.patience,
        train_epoch=train_epoch,
        validate=lambda: evaluate(model, valid),
        select="loss",
    )
