"""One graph convolution over related words, as below KGSF's word vectors.

    w = D^-1/2 (A + 1) D^-1/2 X W + bias        (Eq. 13 without its ReLU, as in KGSF's code)

W words, H hidden.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import GCNConv

from trainer.data.word_graph import WordGraph
from trainer.models.generated_code import generated_code_removed


class WordConv(nn.Module):
    """A table of word vectors and one GCN layer over it (Kipf and Welling 2017, Eq. 2).

    Args:
        graph: words and undirected edges.
        hidden_size: H.
    """

    def __init__(self, graph: WordGraph, *, hidden_size: int) -> None:
        super().__init__()
        table_WH = torch.randn(len(graph.words), hidden_size) * hidden_size**-0.5
        self.table_WH = nn.Parameter(table_WH)
        # cached: the normalisation is the same in every step.
        with generated_code_removed():
            self.conv = GCNConv(hidden_size, hidden_size, cached=True)
        both_2E = np.concatenate([graph.edges_E2, graph.edges_E2[:, ::-1]]).T
        edge_index_2E = torch.from_numpy(np.ascontiguousarray(both_2E, np.int64))
        self.register_buffer("edge_index_2E", edge_index_2E, persistent=False)

    edge_index_2E: Tensor

    def forward(self) -> Tensor:
        """All word vectors, float [W, H]."""
        return self.conv(self.table_WH, self.edge_index_2E)
