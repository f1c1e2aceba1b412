"""Teachers in bf16 and fp16: how far their rows are from float32, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from protos.codec import TargetRows
from protos.teacher_pb2 import Compression, Description
from teacher_server.scoring.description import Teacher
from teacher_server.scoring.kinds import load_teacher
from tests.support import tiny_teachers
from tests.support.evaluation_fakes import tiny_kg_transformer
from trainer.common.errors import InputError
from trainer.config.language_model import LanguageModelConfig
from trainer.data.model_input import InputLimits, SequenceInput, collate
from trainer.data.vocabulary import Vocabulary
from trainer.models.frozen import write_card
from trainer.models.language_model import load_language_model, write_language_model
from trainer.models.placing import DTYPES, Placement

CPU = torch.device("cpu")
WHOLE = Compression()
SHAPE = LanguageModelConfig(num_layers=4, hidden_size=128, num_heads=4, max_positions=64)
# Of a row's 1; docs/operations.md states them.
MAX_ERROR = {"bf16": 0.01, "fp16": 0.0015}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    vocabulary = tiny_teachers.tiny_vocabulary()
    tiny_teachers.write_dialogue_teacher(root / "gpt2", vocabulary, SHAPE)
    (root / "kgsf").mkdir()
    write_language_model(root / "kgsf", tiny_kg_transformer(vocabulary, seed=1))
    vocabulary.save(root / "kgsf")
    limits = load_language_model(root / "kgsf", vocabulary).limits
    card = Description(
        kind="dialogue", vocabulary_digest=vocabulary.digest, max_tokens=limits.max_tokens
    )
    write_card(root / "kgsf", card)
    tiny_teachers.write_recommendation_teacher(root / "recommendation", vocabulary)
    return {name: root / name for name in ("gpt2", "kgsf", "recommendation")}


def inputs_of(teacher: Teacher) -> list[SequenceInput]:
    rng = np.random.default_rng(0)
    num_ids = teacher.description.first_item_id + teacher.description.num_items
    return [
        SequenceInput.at_end(num_rows=n, tokens=rng.integers(0, num_ids, length, dtype=np.int32))
        for length, n in ((40, 20), (64, 30), (9, 1), (25, 17))
    ]


def dense(rows: TargetRows) -> np.ndarray:
    """Probabilities [R, V] of whole rows."""
    return np.exp(rows.log_probs_E.astype(np.float64)).reshape(rows.num_rows, -1)


@pytest.mark.parametrize("dtype", MAX_ERROR)
@pytest.mark.parametrize("name", ["gpt2", "kgsf"])
def test_rows_in_half_precision_are_near_those_in_float32(
    name: str, dtype: str, folders: dict[str, Path]
) -> None:
    whole = load_teacher("dialogue", folders[name], CPU)
    half = load_teacher("dialogue", folders[name], CPU, dtype=dtype)
    inputs = inputs_of(whole)
    exact, rounded = (it.score(inputs, WHOLE) for it in (whole, half))
    variation_R = np.abs(dense(rounded) - dense(exact)).sum(-1) / 2
    assert 0.0 < variation_R.max() <= MAX_ERROR[dtype]
    assert np.abs(rounded.item_mass_R - exact.item_mass_R).max() <= MAX_ERROR[dtype]
    assert (half.description.dtype, whole.description.dtype) == (dtype, "float32")


@pytest.mark.parametrize("dtype", MAX_ERROR)
def test_logits_of_half_precision_are_products_that_are_not_rounded_to_it(
    dtype: str, folders: dict[str, Path]
) -> None:
    teacher = load_teacher("dialogue", folders["gpt2"], CPU, dtype=dtype)
    inputs = inputs_of(teacher)
    vocabulary = Vocabulary.load(folders["gpt2"])
    model = load_language_model(folders["gpt2"], vocabulary, Placement(dtype=dtype))
    assert model.limits == InputLimits(max_tokens=64, takes_ranges=True)
    with torch.inference_mode():
        hidden_TD = model.response_states(collate(inputs, pad_id=0))
        assert hidden_TD.dtype == DTYPES[dtype] == model.head.weight.dtype
        twin_TV = (hidden_TD.double() @ model.head.weight.double().T).softmax(-1)
    np.testing.assert_allclose(dense(teacher.score(inputs, WHOLE)), twin_TV.numpy(), rtol=2e-5)


def test_recommendation_teachers_compute_in_float32_alone(folders: dict[str, Path]) -> None:
    folder = folders["recommendation"]
    assert load_teacher("recommendation", folder, CPU).description.dtype == "float32"
    with pytest.raises(InputError, match=r"of recommendation teachers must be .* got bf16"):
        load_teacher("recommendation", folder, CPU, dtype="bf16")


def test_type_that_does_not_exist_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="one of float32, bf16, fp16, got float8"):
        load_teacher("dialogue", folders["gpt2"], CPU, dtype="float8")
