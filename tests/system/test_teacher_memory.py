"""How much memory the start of a teacher takes, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from protos.teacher_pb2 import Description
from tests.support import tiny_teachers
from tests.support.student_runs import ROOT, environment
from trainer.config.language_model import LanguageModelConfig
from trainer.models.frozen import WEIGHTS_NAME, write_card
from trainer.models.frozen_recommender import load_recommender
from trainer.models.language_model import build_language_model, write_language_model

WIDE = LanguageModelConfig(num_layers=6, hidden_size=1024, num_heads=8, max_positions=64)
NARROW = LanguageModelConfig(num_layers=1, hidden_size=32, num_heads=2, max_positions=64)
# 300 and 400 MB, and a small one of each, which is loaded first: libraries are no weights.
SHAPES = {
    "gpt2": WIDE,
    "kgsf": replace(WIDE, architecture="kgsf", num_layers=4),
    "small-gpt2": NARROW,
    "small-kgsf": replace(NARROW, architecture="kgsf"),
}
MOST = 1.2
# The piece of 16 MiB that is read, and pages of libraries that are touched for the first time.
FIRST_TOUCH = 40 << 20
# A teacher of a few weights comes first: it imports, and touches most of torch's code.
SCRIPT = """
import os, sys, torch
from pathlib import Path
from cluster.bench.memory.rank_memory import status_bytes
from teacher_server.scoring.kinds import load_teacher
small, folder, dtype = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
first = load_teacher("dialogue", small, torch.device("cpu"), dtype=dtype)
before = status_bytes(os.getpid())["VmRSS"]
teacher = load_teacher("dialogue", folder, torch.device("cpu"), dtype=dtype)
print(status_bytes(os.getpid())["VmHWM"] - before)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    vocabulary = tiny_teachers.tiny_vocabulary()
    tiny_teachers.write_recommendation_teacher(root / "knowledge", vocabulary)
    knowledge, _ = load_recommender(root / "knowledge")
    for name, shape in SHAPES.items():
        known = knowledge if shape.architecture == "kgsf" else None
        model = build_language_model(shape, vocabulary, knowledge=known)
        num_entities, num_words = model.knowledge_size
        folder = root / name
        folder.mkdir()
        write_language_model(folder, model)
        vocabulary.save(folder)
        card = Description(
            kind="dialogue",
            vocabulary_digest=vocabulary.digest,
            graph_digest="tiny-graph" if known else "",
            max_tokens=model.limits.max_tokens,
            max_entities=model.limits.max_entities,
            max_words=model.limits.max_words,
            num_entities=num_entities,
            num_words=num_words,
        )
        write_card(folder, card)
    return {name: root / name for name in SHAPES}


@pytest.mark.everything
@pytest.mark.parametrize("name", ["gpt2", "kgsf"])
@pytest.mark.parametrize(("dtype", "share"), [("float32", 1.0), ("bf16", 0.5)])
def test_start_of_a_teacher_takes_little_more_than_its_weights(
    dtype: str, share: float, name: str, folders: dict[str, Path]
) -> None:
    weights = share * os.path.getsize(folders[name] / WEIGHTS_NAME)
    assert weights > 120 << 20
    small, large = (str(folders[it]) for it in (f"small-{name}", name))
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, small, large, dtype],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert weights < int(ended.stdout) <= MOST * weights + FIRST_TOUCH
