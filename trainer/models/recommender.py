"""The recommendation teacher while it learns: an R-GCN over the movie graph below the scores.

The entity vectors n_e come from `rgcn.py` (Eq. 2); what is done with them is
`frozen_recommender.py`'s (Eq. 4). `freeze` runs the graph network once and keeps its vectors as a
table. KGSF's word side (Eqs. 3 and 13) will join in `users`: its gate mixes a pooled word vector
into the pooled entity vector.

B examples, E their entities end to end, N entities, T encoded nodes, I items, D hidden.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.models.frozen_recommender import FrozenRecommender, attentive_pool
from trainer.models.rgcn import (
    MessagePlan,
    RelationalConv,
    RelationalEdges,
    plan_messages,
    widen,
)


class Recommender(nn.Module):
    """The model that is trained.

    Args:
        num_entities, num_relations: of the graph part that it learns on, self-loop included.
        log_popularity_I: float [I], first value of the item bias c.
        hidden_size: D.
        num_bases: bases of the R-GCN.
        dropout: on p_u, in training.
    """

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        *,
        log_popularity_I: Tensor,
        hidden_size: int,
        num_bases: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.graph = RelationalConv(
            num_entities, num_relations, hidden_size=hidden_size, num_bases=num_bases
        )
        # Gain and missing biases as in KGSF's pooling.
        attention_DD = torch.empty(hidden_size, hidden_size)
        self.attention_DD = nn.Parameter(nn.init.xavier_uniform_(attention_DD, gain=1.414))
        attention_D1 = torch.empty(hidden_size, 1)
        self.attention_D1 = nn.Parameter(nn.init.xavier_uniform_(attention_D1, gain=1.414))
        self.item_bias_I = nn.Parameter(log_popularity_I.clone())
        self.dropout = dropout

    def attention(self, vectors_ND: Tensor) -> Tensor:
        """Attention logit of each vector, float [N]."""
        return (torch.tanh(vectors_ND @ self.attention_DD) @ self.attention_D1)[:, 0]

    def users(self, vectors_TD: Tensor, positions_E: Tensor, lengths_B: Tensor) -> Tensor:
        """p_u, float [B, D], from the entities' positions among the encoded nodes."""
        pooled_BD = attentive_pool(vectors_TD, self.attention(vectors_TD), positions_E, lengths_B)
        return F.dropout(pooled_BD, self.dropout, self.training)

    def score(self, vectors_TD: Tensor, positions_E: Tensor, lengths_B: Tensor) -> Tensor:
        """Item logits, float [B, I]; the first I encoded nodes are the items in order."""
        items_ID = vectors_TD[: len(self.item_bias_I)]
        return self.users(vectors_TD, positions_E, lengths_B) @ items_ID.T + self.item_bias_I

    def forward(self, plan: MessagePlan, positions_E: Tensor, lengths_B: Tensor) -> Tensor:
        """Item logits, float [B, I].

        Args:
            plan: messages into the nodes needed; its first I targets are the items in order.
            positions_E: int64 [E], positions of the examples' entities among the plan's targets.
            lengths_B: int64 [B].
        """
        return self.score(self.graph(plan), positions_E, lengths_B)


@torch.no_grad()
def freeze(
    recommender: Recommender, edges: RelationalEdges, old_ids: np.ndarray, items_I: np.ndarray
) -> FrozenRecommender:
    """Run the graph network once over the whole graph and keep its vectors.

    Args:
        recommender: fitted on `restrict_edges`' part of `edges`.
        edges: the whole graph.
        old_ids: node ids in the whole graph of the part's nodes.
        items_I: entity of each item.
    """
    conv = widen(recommender.graph, old_ids, edges.num_entities)
    entities_ND = conv(plan_messages(edges, np.arange(edges.num_entities)))
    return FrozenRecommender(
        entities_ND,
        recommender.attention(entities_ND),
        torch.from_numpy(items_I.astype(np.int64)),
        recommender.item_bias_I.detach().clone(),
    )
