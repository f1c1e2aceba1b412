"""Fit the recommendation teacher and freeze it: cross entropy on the movies that responses mention.

As KGSF does it: first MIM alone for a few epochs, then cross entropy with a little MIM.

S samples, I items, B samples of a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.config.pretrain import RecommendationConfig
from trainer.data.examples import Example
from trainer.data.prepared import PreparedData, load_prepared
from trainer.models.frozen_recommender import export_recommender
from trainer.models.recommender import Recommender, RecommenderShape, freeze, num_bytes
from trainer.models.rgcn import (
    MIN_RELATION_EDGES,
    MessagePlan,
    plan_messages,
    relational_edges,
    restrict_edges,
)
from trainer.models.room import check_fits
from trainer.pretrain.fitting import fit_epochs, write_fit
from trainer.pretrain.recommendation_samples import (
    Samples,
    log_popularity,
    ranking_scores,
    to_samples,
)

EVALUATION_BATCH = 512


def fit_recommendation(config: RecommendationConfig, output: Path) -> None:
    """Fit, choose the epoch with the lowest valid loss, and write the frozen teacher and fit.json.

    The epoch is chosen by loss and not by recall: students learn from the probabilities, and the
    recall of a few hundred samples is noisy.

    Raises:
        FileNotFoundError: if the prepared folder is not whole.
        ValueError: if it does not fit its manifest, or a split mentions no movie.
    """
    data = load_prepared(Path(config.data))
    check_fits(
        f"a recommender of hidden_size {config.hidden_size} and num_bases {config.num_bases}",
        num_bytes(
            num_entities=data.graph.num_entities,
            num_words=len(data.words.words),
            hidden_size=config.hidden_size,
            num_bases=config.num_bases,
        ),
    )
    torch.manual_seed(config.seed)
    splits = {split: data.examples(split) for split in ("train", "valid", "test")}
    edges = relational_edges(data.graph, min_relation_edges=MIN_RELATION_EDGES[config.edge_filter])
    targets = _needed_entities(data, splits)
    local_edges, old_ids = restrict_edges(edges, targets)
    plan = plan_messages(local_edges, np.searchsorted(old_ids, targets))
    samples = {
        split: to_samples(
            examples,
            targets,
            max_entities=config.max_entities,
            max_words=config.max_words,
            name=f"{data.root} {split}",
        )
        for split, examples in splits.items()
    }
    log_popularity_I = log_popularity(samples["train"].gold_S, data.vocabulary.num_items)
    model = Recommender(
        RecommenderShape(
            hidden_size=config.hidden_size,
            num_bases=config.num_bases,
            dropout=config.dropout,
            item_bias=config.item_bias,
        ),
        local_edges,
        # A corpus without word relations gives a model without a word side, as KBRD is.
        data.words if data.words.words else None,
        log_popularity_I=log_popularity_I,
        num_targets=len(targets),
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
        graph_digest=data.graphs_digest,
        max_entities=config.max_entities,
        max_words=config.max_words,
    )
    write_fit(output, fit | {"seed": config.seed, "config": dataclasses.asdict(config)})


@torch.no_grad()
def evaluate(model: Recommender, plan: MessagePlan, samples: Samples) -> dict[str, float]:
    """`ranking_scores` and the MIM loss of a model in eval mode."""
    vectors_TD, words_WD = model.graph(plan), model.encode_words()
    logits, mim = [], 0.0
    for rows_B in torch.arange(len(samples.gold_S)).split(EVALUATION_BATCH):
        batch = samples.select(rows_B)
        logits_BI, mim_loss = model.score(vectors_TD, words_WD, batch.entities, batch.words)
        logits.append(logits_BI)
        mim += float(mim_loss) * len(rows_B)
    scores = ranking_scores(torch.cat(logits), samples.gold_S)
    return scores | {"mim": mim / len(samples.gold_S)}


def _needed_entities(data: PreparedData, splits: dict[str, list[Example]]) -> np.ndarray:
    """The items in order, then any other entity that a context names."""
    items_I = data.graph.item_entities_I
    contexts = [e.context_entities for examples in splits.values() for e in examples]
    others = np.setdiff1d(np.concatenate(contexts), items_I)
    return np.concatenate([items_I, others]).astype(np.int64)


def _fit(
    config: RecommendationConfig, model: Recommender, plan: MessagePlan, samples: dict[str, Samples]
) -> dict[str, Any]:
    tables = [model.graph.basis_KND, model.graph.root_ND]
    others = [p for p in model.parameters() if all(p is not table for table in tables)]
    # fused: one pass over some 30 million weights instead of many.
    optimiser = torch.optim.Adam(
        [{"params": tables, "weight_decay": config.weight_decay}, {"params": others}],
        lr=config.learning_rate,
        fused=True,
    )
    train = samples["train"]

    def train_epoch(epoch: int, *, ce_weight: float, mim_weight: float) -> Iterator[Tensor]:
        shuffle = torch.Generator().manual_seed(config.seed * 10_007 + epoch)
        order = torch.randperm(len(train.gold_S), generator=shuffle)
        for rows_B in order.split(config.batch_size):
            batch = train.select(rows_B)
            logits_BI, mim_loss = model(plan, batch.entities, batch.words)
            cross_entropy = F.cross_entropy(logits_BI, batch.gold_S)
            loss = ce_weight * cross_entropy + mim_weight * mim_loss
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimiser.step()
            yield loss.detach()

    epoch_steps = -(-len(train.gold_S) // config.batch_size)
    mim: dict[str, Any] = {}
    if model.words is not None and config.mim_epochs:
        mim["mim"] = fit_epochs(
            model,
            num_epochs=config.mim_epochs,
            epoch_steps=epoch_steps,
            patience=config.mim_epochs,
            train_epoch=lambda epoch: train_epoch(-epoch, ce_weight=0.0, mim_weight=1.0),
            validate=lambda: evaluate(model, plan, samples["valid"]),
            select="mim",
        )
    return mim | fit_epochs(
        model,
        num_epochs=config.epochs,
        epoch_steps=epoch_steps,
        patience=config.patience,
        train_epoch=lambda epoch: train_epoch(epoch, ce_weight=1.0, mim_weight=config.mim_weight),
        validate=lambda: evaluate(model, plan, samples["valid"]),
        select="loss",
    )
