"""Layers of torch-geometric leave no file behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from torch_geometric.nn import GCNConv

from trainer.data.word_graph import WordGraph
from trainer.models import word_conv
from trainer.models.rgcn import RelationalConv
from trainer.models.word_conv import WordConv


class FreshRelationalConv(RelationalConv):
    """Code is written once for each class of a process: this one has none yet."""


class FreshGCNConv(GCNConv):
    """Likewise."""


class BareGCNConv(GCNConv):
    """Likewise, and made without our care."""


def test_layers_leave_no_code_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    FreshRelationalConv(4, 2, hidden_size=3, num_bases=1)
    monkeypatch.setattr(word_conv, "GCNConv", FreshGCNConv)
    WordConv(WordGraph(("a", "b"), np.array([[0, 1]], np.int32)), hidden_size=3)
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() == str(tmp_path)
    # By itself the library leaves some.
    BareGCNConv(3, 3)
    assert len(list(tmp_path.iterdir())) > 0
