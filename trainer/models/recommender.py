"""The recommendation teacher while it learns: graph networks over films and words below the scores.

The entity vectors n_e come from `rgcn.py` (Eq. 2), the word vectors from `word_conv.py` (Eq. 13);
what is done with them is `frozen_recommender.py`'s (Eqs. 3 and 4). `freeze` runs both networks once
and keeps their vectors as tables.

MIM, the mutual information maximisation of KGSF, ties the two: the pooled words of a context must
predict which films were named in it.

B examples, N entities, T encoded nodes, W words, I items, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.data.bags import Bags
from trainer.data.word_graph import WordGraph
from trainer.models.frozen_recommender import FrozenRecommender, attentive_pool, gated
from trainer.models.rgcn import (
    MessagePlan,
    RelationalConv,
    RelationalEdges,
    plan_messages,
    widen,
)
from trainer.models.word_conv import WordConv

FLOAT32 = 4


@dataclass(frozen=True, kw_only=True)
class RecommenderShape:
    """Sizes of the model that is trained."""

    hidden_size: int
    num_bases: int
    """Bases of the R-GCN."""
    dropout: float
    """On p_u, in training."""
    item_bias: bool
    """A bias per item in the score, as in KGSF's code; Eq. 4 has none."""


def num_bytes(*, num_entities: int, num_words: int, hidden_size: int, num_bases: int) -> int:
    """Bytes of the model over whole graphs, where `freeze` runs it: its tables and matrices."""
    rows = (num_bases + 1) * num_entities + num_words
    # Both attentions, the words' convolution, and MIM.
    matrices = 4 if num_words else 1
    return FLOAT32 * (rows + matrices * hidden_size) * hidden_size


class Attention(nn.Module):
    """Logits tanh(x A) b of self-attentive pooling; gain and missing biases as in KGSF's code."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        inner_DD, outer_D1 = torch.empty(hidden_size, hidden_size), torch.empty(hidden_size, 1)
        self.inner_DD = nn.Parameter(nn.init.xavier_uniform_(inner_DD, gain=1.414))
        self.outer_D1 = nn.Parameter(nn.init.xavier_uniform_(outer_D1, gain=1.414))

    def forward(self, vectors_ND: Tensor) -> Tensor:
        """One logit per vector, float [N]."""
        return (torch.tanh(vectors_ND @ self.inner_DD) @ self.outer_D1)[:, 0]


class Recommender(nn.Module):
    """The model that is trained.

    Args:
        edges: the graph part that it learns on.
        words: related words; None: no word side, p_u = p_e, as in KBRD.
        log_popularity_I: float [I], first value of the item bias c.
        num_targets: T, nodes that are encoded, the items first.
    """

    def __init__(
        self,
        shape: RecommenderShape,
        edges: RelationalEdges,
        words: WordGraph | None,
        *,
        log_popularity_I: Tensor,
        num_targets: int,
    ) -> None:
        super().__init__()
        size = shape.hidden_size
        self.shape = shape
        self.graph = RelationalConv(
            edges.num_entities,
            edges.num_relations,
            hidden_size=size,
            num_bases=shape.num_bases,
        )
        self.attention = Attention(size)
        first_bias_I = log_popularity_I.clone() if shape.item_bias else log_popularity_I.mul(0)
        self.item_bias_I = nn.Parameter(first_bias_I, requires_grad=shape.item_bias)
        self.words = None
        if words is not None:
            self.words = WordConv(words, hidden_size=size)
            self.word_attention = Attention(size)
            self.gate = nn.Linear(2 * size, 1)
            self.mim = nn.Linear(size, size)
            self.mim_bias_T = nn.Parameter(torch.zeros(num_targets))

    def forward(self, plan: MessagePlan, entities: Bags, words: Bags) -> tuple[Tensor, Tensor]:
        """Item logits, float [B, I], and the MIM loss, a scalar (0 without a word side).

        Args:
            plan: messages into the nodes needed; its first I targets are the items in order.
            entities: positions of the examples' entities among the plan's targets.
            words: ids in the word graph.
        """
        return self.score(self.graph(plan), self.encode_words(), entities, words)

    def encode_words(self) -> Tensor | None:
        """All word vectors, float [W, D]; None without a word side."""
        return None if self.words is None else self.words()

    def score(
        self, vectors_TD: Tensor, words_WD: Tensor | None, entities: Bags, words: Bags
    ) -> tuple[Tensor, Tensor]:
        """`forward` from vectors that are encoded already."""
        users_BD = attentive_pool(vectors_TD, self.attention(vectors_TD), entities)
        mim_loss = vectors_TD.new_zeros(())
        if words_WD is not None:
            pooled_BD = attentive_pool(words_WD, self.word_attention(words_WD), words)
            mim_loss = self._mim_loss(vectors_TD, pooled_BD, entities)
            users_BD = gated(users_BD, pooled_BD, self.gate.weight[0], self.gate.bias[0])
        users_BD = F.dropout(users_BD, self.shape.dropout, self.training)
        items_ID = vectors_TD[: len(self.item_bias_I)]
        return users_BD @ items_ID.T + self.item_bias_I, mim_loss

    def _mim_loss(self, vectors_TD: Tensor, words_BD: Tensor, entities: Bags) -> Tensor:
        """Squared error against the films named, summed over nodes, mean over examples (KGSF).

        Over the encoded nodes alone: on the others the target is 0 in every example.
        """
        scores_BT = self.mim(words_BD) @ vectors_TD.T + self.mim_bias_T
        example_E = torch.arange(len(entities.lengths_B)).repeat_interleave(entities.lengths_B)
        is_item_E = entities.ids_E < len(self.item_bias_I)
        named_BT = torch.zeros_like(scores_BT)
        named_BT[example_E[is_item_E], entities.ids_E[is_item_E]] = 1.0
        return (scores_BT - named_BT).square().sum(-1).mean()


@torch.no_grad()
def freeze(
    recommender: Recommender, edges: RelationalEdges, old_ids: np.ndarray, items_I: np.ndarray
) -> FrozenRecommender:
    """Run the graph networks once over the whole graphs and keep their vectors.

    Args:
        recommender: fitted on `restrict_edges`' part of `edges`.
        edges: the whole graph.
        old_ids: node ids in the whole graph of the part's nodes.
        items_I: entity of each item.
    """
    conv = widen(recommender.graph, old_ids, edges.num_entities)
    entities_ND = conv(plan_messages(edges, np.arange(edges.num_entities)))
    size = recommender.shape.hidden_size
    words_WD = recommender.encode_words()
    has_words = words_WD is not None
    return FrozenRecommender(
        entities_ND=entities_ND,
        attention_N=recommender.attention(entities_ND),
        items_I=torch.from_numpy(items_I.astype(np.int64)),
        item_bias_I=recommender.item_bias_I.detach().clone(),
        words_WD=words_WD if words_WD is not None else torch.zeros(0, size),
        word_attention_W=(
            recommender.word_attention(words_WD) if words_WD is not None else torch.zeros(0)
        ),
        gate_2D=recommender.gate.weight[0].clone() if has_words else torch.zeros(2 * size),
        gate_bias=recommender.gate.bias[0].clone() if has_words else torch.zeros(()),
    )
