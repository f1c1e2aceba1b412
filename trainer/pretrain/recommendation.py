"""Fit the recommendation teacher and freeze it: cross entropy on the movies that responses mention.

S samples (one per mentioned movie of a response, repeats kept), E their entities end to end,
I items, B samples of a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.data.examples import Example
from trainer.data.prepare import PreparedData, load_prepared
from trainer.models.frozen_recommender import export_recommender
from trainer.models.recommender import Recommender, freeze
from trainer.models.rgcn import MessagePlan, plan_messages, relational_edges, restrict_edges
from trainer.pretrain.fitting import fit_epochs, require, write_fit

RECALL_DEPTHS = (1, 10, 50)
EVALUATION_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class RecommendationConfig:
    """What the recommendation teacher is fitted on, how large it is and how it is fitted."""

    data: str
    """Prepared folder."""
    seed: int = 0
    hidden_size: int = 128
    num_bases: int = 8
    min_relation_edges: int = 1000
    """Relations with more edges than this are kept, counted over both directions; 0 keeps all."""
    max_entities: int = 256
    """Entities of a context that are used, the last ones; longer input is refused when served."""
    epochs: int = 6
    """At most."""
    patience: int = 2
    """Epochs without a better valid loss after which the fit ends."""
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    """L2 in Adam, on the R-GCN's node tables alone; without it they overfit in the second epoch."""
    dropout: float = 0.0
    """On the user vector."""
    clip_norm: float = 0.1
    """Gradients are scaled down to this global norm (KGSF)."""

    def __post_init__(self) -> None:
        sizes = ("hidden_size", "num_bases", "max_entities", "epochs", "patience", "batch_size")
        positive = (*sizes, "learning_rate", "clip_norm")
        values = dataclasses.asdict(self)
        require((key, values[key] > 0, "above 0", values[key]) for key in positive)
        not_negative = ("seed", "min_relation_edges", "weight_decay")
        require((key, values[key] >= 0, ">= 0", values[key]) for key in not_negative)
        require([("dropout", 0.0 <= self.dropout < 1.0, "in [0, 1)", self.dropout)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Contexts and the movie to be predicted from each.

    Attributes:
        positions_E: int64 [E], positions of the contexts' entities among the encoded nodes.
        lengths_S: int64 [S], entities of each context; may be 0.
        gold_S: int64 [S], item indices.
    """

    positions_E: Tensor
    lengths_S: Tensor
    gold_S: Tensor

    def select(self, rows_B: Tensor) -> Samples:
        """The samples of the given rows, in their order."""
        lengths_B = self.lengths_S[rows_B]
        first_B = (self.lengths_S.cumsum(0) - self.lengths_S)[rows_B]
        shift_B = first_B - (lengths_B.cumsum(0) - lengths_B)
        index_E = torch.arange(int(lengths_B.sum())) + shift_B.repeat_interleave(lengths_B)
        return Samples(
            positions_E=self.positions_E[index_E], lengths_S=lengths_B, gold_S=self.gold_S[rows_B]
        )


def fit_recommendation(config: RecommendationConfig, output: Path) -> None:
    """Fit, choose the epoch with the lowest valid loss, and write the frozen teacher and fit.json.

    The epoch is chosen by loss and not by recall: students learn from the probabilities, and the
    recall of a few hundred samples is noisy.

    Raises:
        FileNotFoundError: if the prepared folder is not whole.
        ValueError: if it does not fit its manifest, or a split mentions no movie.
    """
    data = load_prepared(Path(config.data))
    torch.manual_seed(config.seed)
    splits = {split: data.examples(split) for split in ("train", "valid", "test")}
    edges = relational_edges(data.graph, min_relation_edges=config.min_relation_edges)
    targets = _needed_entities(data, splits)
    local_edges, old_ids = restrict_edges(edges, targets)
    plan = plan_messages(local_edges, np.searchsorted(old_ids, targets))
    samples = {
        split: to_samples(examples, targets, config.max_entities, name=f"{data.root} {split}")
        for split, examples in splits.items()
    }
    log_popularity_I = log_popularity(samples["train"].gold_S, data.vocabulary.num_items)
    model = Recommender(
        local_edges.num_entities,
        local_edges.num_relations,
        log_popularity_I=log_popularity_I,
        hidden_size=config.hidden_size,
        num_bases=config.num_bases,
        dropout=config.dropout,
    )
    fit = _fit(config, model, plan, samples)
    evaluated = {split: samples[split] for split in ("valid", "test")}
    fit["metrics"] = {split: evaluate(model, plan, s) for split, s in evaluated.items()}
    fit["popularity"] = {
        split: ranking_scores(log_popularity_I.expand(len(s.gold_S), -1), s.gold_S)
        for split, s in evaluated.items()
    }
    frozen = freeze(model, edges, old_ids, data.graph.item_entities_I)
    export_recommender(
        output,
        frozen,
        data.vocabulary,
        graph_digest=data.graph.digest,
        max_input_length=config.max_entities,
    )
    write_fit(output, fit | {"seed": config.seed, "config": dataclasses.asdict(config)})


def to_samples(
    examples: list[Example], targets: np.ndarray, max_entities: int, *, name: str
) -> Samples:
    """One sample per gold item; `targets` are the encoded entities, items first.

    Raises:
        ValueError: if no example has a gold item; `name` says of what.
    """
    position_of = {int(entity): position for position, entity in enumerate(targets)}
    positions: list[int] = []
    lengths: list[int] = []
    gold: list[int] = []
    for example in examples:
        context = [position_of[int(e)] for e in example.context_entities[-max_entities:]]
        for item in example.gold_items:
            positions += context
            lengths.append(len(context))
            gold.append(int(item))
    if not gold:
        raise ValueError(f"{name} must mention at least one movie in a response, got none.")
    return Samples(
        positions_E=torch.tensor(positions, dtype=torch.int64),
        lengths_S=torch.tensor(lengths, dtype=torch.int64),
        gold_S=torch.tensor(gold, dtype=torch.int64),
    )


def log_popularity(gold_S: Tensor, num_items: int) -> Tensor:
    """Log of each item's share of the samples, one added to each count; float32 [I], nats."""
    counts_I = torch.bincount(gold_S, minlength=num_items) + 1.0
    return (counts_I / counts_I.sum()).log()


def ranking_scores(logits_SI: Tensor, gold_S: Tensor) -> dict[str, float]:
    """Recall at 1, 10 and 50 and mean cross entropy (nats) over samples.

    An item's rank counts the items that score higher, and half of its ties: a constant score gains
    nothing from the items' order.
    """
    gold_S1 = logits_SI.gather(1, gold_S[:, None])
    ties_S = (logits_SI == gold_S1).sum(1) - 1
    rank_S = (logits_SI > gold_S1).sum(1) + 0.5 * ties_S
    scores = {f"recall_at_{k}": float((rank_S < k).float().mean()) for k in RECALL_DEPTHS}
    return scores | {"loss": float(F.cross_entropy(logits_SI, gold_S))}


@torch.no_grad()
def evaluate(model: Recommender, plan: MessagePlan, samples: Samples) -> dict[str, float]:
    """`ranking_scores` of a model in eval mode."""
    vectors_TD = model.graph(plan)
    logits = [
        model.score(vectors_TD, batch.positions_E, batch.lengths_S)
        for rows_B in torch.arange(len(samples.gold_S)).split(EVALUATION_BATCH)
        for batch in [samples.select(rows_B)]
    ]
    return ranking_scores(torch.cat(logits), samples.gold_S)


def _needed_entities(data: PreparedData, splits: dict[str, list[Example]]) -> np.ndarray:
    """The items in order, then any other entity that a context names."""
    items_I = data.graph.item_entities_I
    contexts = [e.context_entities for examples in splits.values() for e in examples]
    others = np.setdiff1d(np.concatenate(contexts), items_I)
    return np.concatenate([items_I, others]).astype(np.int64)


def _fit(
    config: RecommendationConfig, model: Recommender, plan: MessagePlan, samples: dict[str, Samples]
) -> dict:
    tables = [model.graph.basis_KND, model.graph.root_ND]
    others = [p for p in model.parameters() if all(p is not table for table in tables)]
    # fused: one pass over some 30 million weights instead of many.
    optimiser = torch.optim.Adam(
        [{"params": tables, "weight_decay": config.weight_decay}, {"params": others}],
        lr=config.learning_rate,
        fused=True,
    )
    train = samples["train"]

    def train_epoch(epoch: int) -> Iterator[Tensor]:
        shuffle = torch.Generator().manual_seed(config.seed * 10_007 + epoch)
        order = torch.randperm(len(train.gold_S), generator=shuffle)
        for rows_B in order.split(config.batch_size):
            batch = train.select(rows_B)
            logits_BI = model(plan, batch.positions_E, batch.lengths_S)
            loss = F.cross_entropy(logits_BI, batch.gold_S)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimiser.step()
            yield loss.detach()

    return fit_epochs(
        model,
        num_epochs=config.epochs,
        epoch_steps=-(-len(train.gold_S) // config.batch_size),
        patience=config.patience,
        train_epoch=train_epoch,
        validate=lambda: evaluate(model, plan, samples["valid"]),
        select="loss",
    )
