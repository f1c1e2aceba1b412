"""Models larger than the machine are refused before a byte of them is there."""

from __future__ import annotations

import dataclasses
import math

import pytest
from torch import nn

from tests.support.tiny_teachers import tiny_vocabulary
from trainer.common.errors import InputError
from trainer.config.language_model import LanguageModelConfig
from trainer.models import room
from trainer.models.language_model import (
    ARCHITECTURES,
    build_language_model,
    check_model_fits,
)
from trainer.models.room import check_fits, module_bytes
from trainer.models.turn_classifier import ClassifierShape, TurnClassifier, check_classifier_fits

SMALL = LanguageModelConfig(num_layers=3, hidden_size=16, num_heads=2, max_positions=40)


def held_bytes(module: nn.Module) -> int:
    tensors = {id(it): it for it in (*module.parameters(), *module.buffers())}
    return sum(it.numel() * it.element_size() for it in tensors.values())


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_bytes_of_a_model_that_is_not_there_are_those_of_the_one_that_is(
    architecture: str, num_layers: int
) -> None:
    config = dataclasses.replace(SMALL, architecture=architecture, num_layers=num_layers)
    counted = ARCHITECTURES[architecture].num_bytes(config, tiny_vocabulary())
    assert counted == held_bytes(build_language_model(config, tiny_vocabulary()).module)


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
@pytest.mark.parametrize(
    "change",
    [
        {"hidden_size": 100_000_000},
        {"hidden_size": 10**23 * 2},
        {"num_layers": 10**12},
        {"hidden_size": 1_000_000},
    ],
    ids=str,
)
def test_model_larger_than_the_machine_is_refused_with_both_figures(
    architecture: str, change: dict[str, int]
) -> None:
    config = dataclasses.replace(SMALL, architecture=architecture, **change)
    message = r"hidden_size \d+, .* must fit this machine's [\d.,]+ GiB .* weights of \S+ GiB"
    with pytest.raises(InputError, match=message):
        build_language_model(config, tiny_vocabulary())


def test_positions_of_gpt2_are_weights_too() -> None:
    with pytest.raises(InputError, match="max_positions 1000000000000 must fit"):
        check_model_fits(dataclasses.replace(SMALL, max_positions=10**12), tiny_vocabulary())


def test_classifier_larger_than_the_machine_is_refused() -> None:
    shape = ClassifierShape(vocab_size=100, hidden_size=16, num_layers=3, num_heads=2, max_tokens=8)
    check_classifier_fits(shape)
    counted = module_bytes(
        lambda layers: TurnClassifier(dataclasses.replace(shape, num_layers=layers)), 3
    )
    assert counted == held_bytes(TurnClassifier(shape))
    with pytest.raises(InputError, match="a classifier of hidden_size 100000000 and num_layers 3"):
        check_classifier_fits(dataclasses.replace(shape, hidden_size=100_000_000))


def test_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "memory_bytes", lambda: 2 << 30)
    check_fits("a model", 2 << 30)
    with pytest.raises(InputError, match=r"machine's 2\.0 GiB of memory, got weights of 3\.0 GiB"):
        check_fits("a model", 3 << 30)
    with pytest.raises(InputError, match="got weights of inf GiB"):
        check_fits("a model", math.inf)
