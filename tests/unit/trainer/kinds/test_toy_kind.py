"""Proof: a third kind of teacher is served and distilled from, and no product file knows it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from protos import codec, teacher_pb2
from protos.target_rows import Targets
from teacher_server.replica.request_check import RequestCheck, RequestLimits
from teacher_server.scoring.description import describe, support_size
from tests.support import tiny_teachers, toy_teacher
from tests.support.action_forms import form_of
from tests.support.replica_calls import one_range
from tests.support.thread_fleet import served
from trainer.common.plugins import with_plugins
from trainer.config.distill import DistillConfig
from trainer.config.run import RunConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.bags import Bags
from trainer.data.examples import Example
from trainer.data.loader import Positions, to_student_input
from trainer.data.model_input import InputLimits
from trainer.data.vocabulary import Vocabulary
from trainer.kinds.table import TEACHER_KINDS, asked_kinds, known_kinds
from trainer.loss.conkd import mix_targets
from trainer.loss.soft_targets import SoftTargets
from trainer.main import parse
from trainer.models.causal_lm import load_causal_lm
from trainer.models.frozen import read_card
from trainer.models.frozen_recommender import load_recommender
from trainer.student_run import checked_input
from trainer.teacher_client.client import TeacherClient

PLUGINS = ("tests.support.toy_teacher",)
SHARE = 0.25
KINDS = known_kinds(RunConfig(data="", output="", plugins=PLUGINS))
WHOLE = {"top_k": 0, "recommendation_top_k": 0, "recommendation_top_p": 1.0, "values": "float32"}


def distill(**settings: object) -> DistillConfig:
    return DistillConfig(gamma=0.6, shares={"bigram": SHARE}, **(WHOLE | settings))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return tiny_teachers.tiny_vocabulary()


@pytest.fixture(scope="module")
def examples(vocabulary: Vocabulary) -> list[Example]:
    return tiny_teachers.random_examples(vocabulary, (1, 3, 6), seed=0)


@pytest.fixture(scope="module")
def folders(
    vocabulary: Vocabulary, examples: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    tiny_teachers.write_dialogue_teacher(root / "dialogue", vocabulary)
    tiny_teachers.write_recommendation_teacher(root / "recommendation", vocabulary)
    toy_teacher.fit_bigrams(root / "bigram", vocabulary, examples)
    return {kind: root / kind for kind in KINDS}


@pytest.fixture(scope="module")
def address(folders: dict[str, Path]) -> Iterator[str]:
    with served(folders, PLUGINS) as address:
        yield address


def received(
    address: str, config: DistillConfig, vocabulary: Vocabulary, examples: list[Example]
) -> Targets:
    client = TeacherClient(
        TeachersConfig(directory=address),
        config,
        vocabulary=vocabulary,
        graph_digest="tiny-graph",
        kinds=KINDS,
    )
    try:
        assert list(client.identity) == list(client.kinds) == list(asked_kinds(config, KINDS))
        return client.submit(examples).result(60)
    finally:
        client.close()


def slow_mixture(
    folders: dict[str, Path],
    vocabulary: Vocabulary,
    examples: list[Example],
    config: DistillConfig,
) -> np.ndarray:
    """w of docs/loss.md times 1/T, position by position and dense, in float64; [P, V]."""
    first, end = vocabulary.first_item_id, vocabulary.first_item_id + vocabulary.num_items
    model = load_causal_lm(folders["dialogue"], vocabulary).module.double()
    recommender, _ = load_recommender(folders["recommendation"])
    rows = []
    for example in examples:
        tokens = np.concatenate([example.context_ids, example.response_ids])
        psi_V = np.zeros(vocabulary.size)
        with torch.no_grad():
            ids = torch.from_numpy(tokens[None, :-1].astype(np.int64))
            phi_LV = model(ids).logits[0].softmax(-1).numpy()
            bags = Bags.of([example.context_entities]), Bags.of([example.context_words])
            psi_V[first:end] = recommender(*bags)[0].double().exp()
        for step, gold in enumerate(example.response_ids):
            at = len(example.context_ids) + step
            phi_V = phi_LV[at - 1]
            mass = phi_V[first:end].sum()
            lam = {"hard": float(mass >= config.eta), "soft": mass, "fixed": config.fixed_lambda}
            gate = lam[config.gate]
            taught = (1 - SHARE) * ((1 - gate) * phi_V + gate * psi_V)
            taught[:first] += SHARE * counted(tokens[at - 1], first, examples)
            row_V = config.gamma * taught
            row_V[gold] += 1 - config.gamma
            rows.append(row_V / len(example.response_ids))
    return np.stack(rows)


def counted(before: int, num_words: int, examples: list[Example]) -> np.ndarray:
    """P(word | token before) from the examples, one pair after another."""
    counts_W = np.full(num_words, toy_teacher.SMOOTHING)
    for example in examples:
        tokens = [*example.context_ids[-1:], *example.response_ids]
        for one, next_one in itertools.pairwise(tokens):
            if min(one, num_words) == min(before, num_words) and next_one < num_words:
                counts_W[next_one] += 1
    return counts_W / counts_W.sum()


def dense(targets: SoftTargets, vocabulary: Vocabulary) -> np.ndarray:
    """The sparse targets written out, [P, V]; their rows must be whole."""
    mixed_PV = np.zeros((len(targets.labels_P), vocabulary.size))
    np.add.at(mixed_PV, (np.arange(len(mixed_PV)), targets.labels_P), targets.gold_P.double())
    for term in targets.terms:
        assert not term.rows.tail_R.any()
        for p, (row, weight) in enumerate(zip(term.row_P, term.weight_P, strict=True)):
            entries = slice(*term.rows.offsets_R1[row : row + 2])
            probs = term.rows.probs_E[entries].double().numpy()
            mixed_PV[p, term.rows.ids_E[entries]] += float(weight) * probs
    return mixed_PV


def positions_of(examples: list[Example], vocabulary: Vocabulary) -> Positions:
    limits = InputLimits(actions=form_of(vocabulary))
    inputs = to_student_input(tuple(examples), vocabulary, limits)
    return inputs.positions


@pytest.mark.parametrize(
    "settings",
    [
        {"gate": "hard", "eta": 0.1},
        {"gate": "soft"},
        {"gate": "fixed", "fixed_lambda": 0.0},
        {"gate": "fixed", "fixed_lambda": 1.0},
    ],
    ids=str,
)
def test_mixture_with_a_third_kind_is_its_slow_twin(
    settings: dict[str, object],
    address: str,
    folders: dict[str, Path],
    vocabulary: Vocabulary,
    examples: list[Example],
) -> None:
    config = distill(**settings)
    targets = received(address, config, vocabulary, examples)
    items = range(vocabulary.first_item_id, vocabulary.first_item_id + vocabulary.num_items)
    positions = positions_of(examples, vocabulary)
    mixed = mix_targets(positions, targets, config, items, KINDS)
    expected_PV = slow_mixture(folders, vocabulary, examples, config)
    np.testing.assert_allclose(dense(mixed, vocabulary), expected_PV, atol=1e-6)
    np.testing.assert_allclose(expected_PV.sum(-1), positions.weight_P, rtol=1e-6)


def test_rows_of_a_third_kind_that_are_cut_or_drawn_keep_its_support(
    address: str, vocabulary: Vocabulary, examples: list[Example]
) -> None:
    for tail in ("bucket", "sampled"):
        config = distill(top_k=4, recommendation_top_k=4, tail=tail, values="uint8")
        rows = received(address, config, vocabulary, examples)["bigram"]
        assert rows.num_rows == sum(len(example.response_ids) for example in examples)
        assert rows.counts_R.max() <= 4 and rows.ids_E.max() < vocabulary.first_item_id
        assert not rows.item_mass_R.any()


def test_cached_targets_of_a_third_kind_need_no_teacher(
    address: str, vocabulary: Vocabulary, examples: list[Example], tmp_path: Path
) -> None:
    # The hard gate may ask for no recommendation row here; a cache without any knows no teacher.
    config = distill(gate="soft")
    answers = []
    for directory in (address, "127.0.0.1:9"):
        client = TeacherClient(
            TeachersConfig(directory=directory, cache=str(tmp_path), connect_s=0.2),
            config,
            vocabulary=vocabulary,
            graph_digest="tiny-graph",
            kinds=KINDS,
        )
        answers.append(client.submit(examples).result(60)["bigram"])
        client.close()
    for name in ("counts_R", "ids_E", "log_probs_E", "tail_R"):
        assert getattr(answers[0], name).tobytes() == getattr(answers[1], name).tobytes()


def test_run_that_weighs_a_kind_of_no_plugin_is_refused_before_anything_else(
    tmp_path: Path,
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(f"data: {tmp_path / 'none'}\noutput: {tmp_path}\n")
    settings = ["--config", str(config), f"distill.shares.bigram={SHARE}"]
    with pytest.raises(ValueError, match=r"among: none .*got bigram\. Add its module to plugins"):
        checked_input(parse(settings))
    with pytest.raises(FileNotFoundError, match="none"):
        checked_input(parse([*settings, f"plugins=[{PLUGINS[0]}]"]))


def test_replica_counts_the_rows_of_a_plugins_kind_by_its_own_support(
    vocabulary: Vocabulary, folders: dict[str, Path]
) -> None:
    card = describe(read_card(folders[toy_teacher.KIND], toy_teacher.KIND), vocabulary)
    kinds = with_plugins(TEACHER_KINDS, PLUGINS, "TEACHER_KINDS")
    assert support_size(card, kinds) == vocabulary.first_item_id
    assert support_size(card) == vocabulary.size
    # 11 bytes an entry and 12 a row: room for ten whole rows over words, not over the vocabulary.
    words = vocabulary.first_item_id
    limits = RequestLimits(support_size=words, max_reply_bytes=10 * (11 * words + 12))
    request = teacher_pb2.ScoreRequest(
        request_id=1,
        compression=teacher_pb2.Compression(values=codec.UINT8),  # type: ignore[arg-type]
        token_ids=np.arange(10, dtype="<i4").tobytes(),
        token_lengths=np.array([10], "<i4").tobytes(),
        temperature=1.0,
        **one_range((0, 10)),
    )
    card.max_tokens = 16
    assert RequestCheck(card, limits)(request).num_rows == 10
    with pytest.raises(ValueError, match="the reply must fit in"):
        RequestCheck(card, dataclasses.replace(limits, support_size=None))(request)
