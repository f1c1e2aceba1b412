"""One R-GCN layer over the movie graph, run only over the edges into the nodes that a step needs.

    n_e = sum_{j ->_r e} sum_k a_rk V_k[j]  +  Theta[e]  +  bias       (Eq. 2 with Z = 1, no sigma)

KGSF's code has no activation here, and neither have we.

N nodes (entities), R relations, K bases, D hidden, G edges, T target nodes, S messages (distinct
pairs of relation and source).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import MessagePassing

from trainer.config.pretrain import EdgeFilter
from trainer.data.knowledge_graph import KnowledgeGraph
from trainer.models.generated_code import generated_code_removed


@dataclass(frozen=True, kw_only=True)
class RelationalEdges:
    """Typed, directed edges, no edge twice; the last relation is that of the self-loops.

    Attributes:
        edges_G3: int64 [G, 3] source, relation, target; relations are numbered without gaps.
        num_entities: nodes.
        num_relations: kept relations and the self-loop.
    """

    edges_G3: np.ndarray
    num_entities: int
    num_relations: int


@dataclass(frozen=True, kw_only=True)
class MessagePlan:
    """Which messages exist and where they go, for the nodes that a step needs.

    Many edges carry the same message (an actor's to all of their movies), so each distinct pair of
    relation and source is computed once.

    Attributes:
        relation_S, source_S: int64 [S], what each message is made of.
        edge_index_2G: int64 [2, G], message -> position of its target in target_T.
        target_T: int64 [T], the nodes that are wanted.
    """

    relation_S: Tensor
    source_S: Tensor
    edge_index_2G: Tensor
    target_T: Tensor


MIN_RELATION_EDGES: dict[EdgeFilter, int] = {"kgsf": 500, "all": 0}
"""Edges that a relation of the graph must exceed to be kept.

`kgsf`: those with more than 500 edges, counted over both directions, as KGSF's code has it (its
list is built twice before the cut at 1,000): 46 relations and 365,028 edges of its DBpedia, of
which 6 are self-loops of rows that it allocates beyond its 64,362 entities.
`all`: every relation, for a graph so small that the cut would leave none.
"""


def relational_edges(graph: KnowledgeGraph, *, min_relation_edges: int) -> RelationalEdges:
    """Every triple in both directions under its own relation, and a self-loop for every node.

    Args:
        min_relation_edges: a relation is kept if it has more edges, counted over both directions
            before duplicates go. Self-edges of the graph are dropped in favour of the self-loops.
    """
    triples = graph.edges_E3[graph.edges_E3[:, 0] != graph.edges_E3[:, 2]].astype(np.int64)
    edges_G3 = np.concatenate([triples, triples[:, ::-1]])
    counts_R = np.bincount(edges_G3[:, 1], minlength=graph.num_relations)
    kept = np.flatnonzero(counts_R > min_relation_edges)
    number_R = np.full(graph.num_relations, -1, dtype=np.int64)
    number_R[kept] = np.arange(len(kept))
    edges_G3[:, 1] = number_R[edges_G3[:, 1]]
    nodes = np.arange(graph.num_entities)
    loops = np.stack([nodes, np.full_like(nodes, len(kept)), nodes], axis=1)
    edges_G3 = np.unique(np.concatenate([edges_G3[edges_G3[:, 1] >= 0], loops]), axis=0)
    return RelationalEdges(
        edges_G3=edges_G3, num_entities=graph.num_entities, num_relations=len(kept) + 1
    )


def restrict_edges(
    edges: RelationalEdges, wanted: np.ndarray
) -> tuple[RelationalEdges, np.ndarray]:
    """The part of the graph that the wanted nodes' vectors depend on, with nodes renumbered.

    Returns:
        Edges into the wanted nodes over nodes 0..n-1, and the old id of each node, int64 [n]
        ascending. Vectors of other nodes are not meaningful there.
    """
    is_wanted = np.zeros(edges.num_entities, dtype=bool)
    is_wanted[wanted] = True
    inward_G3 = edges.edges_G3[is_wanted[edges.edges_G3[:, 2]]]
    old_ids = np.union1d(inward_G3[:, 0], wanted)
    local_G3 = inward_G3.copy()
    local_G3[:, 0] = np.searchsorted(old_ids, inward_G3[:, 0])
    local_G3[:, 2] = np.searchsorted(old_ids, inward_G3[:, 2])
    restricted = RelationalEdges(
        edges_G3=local_G3, num_entities=len(old_ids), num_relations=edges.num_relations
    )
    return restricted, old_ids


def plan_messages(edges: RelationalEdges, targets: np.ndarray) -> MessagePlan:
    """The messages that the target nodes (distinct ids, any order) receive."""
    position_N = np.full(edges.num_entities, -1, dtype=np.int64)
    position_N[targets] = np.arange(len(targets))
    inward_G3 = edges.edges_G3[position_N[edges.edges_G3[:, 2]] >= 0]
    # Sorted by target: sums run over one target's messages after the other, in memory order.
    inward_G3 = inward_G3[np.argsort(position_N[inward_G3[:, 2]], kind="stable")]
    key_G = inward_G3[:, 0] * edges.num_relations + inward_G3[:, 1]
    key_S, message_G = np.unique(key_G, return_inverse=True)
    edge_index_2G = np.stack([message_G.reshape(-1), position_N[inward_G3[:, 2]]])
    return MessagePlan(
        relation_S=torch.from_numpy(key_S % edges.num_relations),
        source_S=torch.from_numpy(key_S // edges.num_relations),
        edge_index_2G=torch.from_numpy(edge_index_2G),
        target_T=torch.from_numpy(targets.astype(np.int64)),
    )


class RelationalConv(MessagePassing):
    """One R-GCN layer on one-hot input with basis decomposition; a sum (Z = 1).

    Equals `RGCNConv(N, D, R, num_bases=K, aggr="sum")(None, edge_index, edge_type)`, but runs over
    the edges into the wanted nodes alone and never forms a relation's whole weight.

    Source: Schlichtkrull et al. 2018 (arXiv:1703.06103), Eqs. 2 and 3.
    """

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        *,
        hidden_size: int,
        num_bases: int,
    ) -> None:
        with generated_code_removed():
            super().__init__(aggr="sum")
        # Glorot's bound for an [N, D] matrix.
        bound = math.sqrt(6.0 / (num_entities + hidden_size))
        self.basis_KND = nn.Parameter(
            torch.empty(num_bases, num_entities, hidden_size).uniform_(-bound, bound)
        )
        self.coefficient_RK = nn.Parameter(
            nn.init.xavier_uniform_(torch.empty(num_relations, num_bases))
        )
        self.root_ND = nn.Parameter(torch.empty(num_entities, hidden_size).uniform_(-bound, bound))
        self.bias_D = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, plan: MessagePlan) -> Tensor:
        """Vectors of the plan's targets, float [T, D]."""
        coefficient_KS = self.coefficient_RK.T[:, plan.relation_S]
        message_SD = self.root_ND.new_zeros(len(plan.source_S), self.root_ND.shape[1])
        # Basis by basis and with F.embedding: its backward is several times faster on CPU than that
        # of one gather of [S, K, D].
        for basis_ND, coefficient_S in zip(self.basis_KND, coefficient_KS, strict=True):
            message_SD = message_SD + coefficient_S[:, None] * F.embedding(plan.source_S, basis_ND)
        size = (len(plan.source_S), len(plan.target_T))
        sums_TD = self.propagate(plan.edge_index_2G, x=(message_SD, None), size=size)
        return sums_TD + F.embedding(plan.target_T, self.root_ND) + self.bias_D

    def message(self, x_j: Tensor) -> Tensor:
        """The message itself: relation and source are already in it."""
        return x_j


@torch.no_grad()
def widen(conv: RelationalConv, old_ids: np.ndarray, num_entities: int) -> RelationalConv:
    """The layer over the whole graph from one fitted on `restrict_edges`' part of it.

    Rows outside the part are zero: no training score depended on them, so nothing was learnt there.
    """
    num_relations, num_bases = conv.coefficient_RK.shape
    whole = RelationalConv(
        num_entities,
        num_relations,
        hidden_size=conv.root_ND.shape[1],
        num_bases=num_bases,
    )
    rows = torch.from_numpy(old_ids)
    whole.basis_KND.zero_()[:, rows] = conv.basis_KND
    whole.root_ND.zero_()[rows] = conv.root_ND
    whole.coefficient_RK.copy_(conv.coefficient_RK)
    whole.bias_D.copy_(conv.bias_D)
    return whole
