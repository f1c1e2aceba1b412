from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.client_world import examples
from trainer import export
from trainer.data.model_input import InputLimits
from trainer.kinds.table import TEACHER_KINDS


def test_teacher_that_takes_too_few_tokens_is_refused_by_its_kind() -> None:
    moon = dataclasses.replace(TEACHER_KINDS["dialogue"], share=None)
    kinds = {**TEACHER_KINDS, "moon": moon}
    limits = {"recommendation": InputLimits(max_entities=1), "moon": InputLimits(max_tokens=6)}
    teachers: Any = SimpleNamespace(kinds=kinds, limits=limits)
    # Two tokens of context, and the response but for its last one.
    export._check_teachers(teachers, examples(3, 5))
    with pytest.raises(ValueError, match=r"moon teacher must take inputs of 7 tokens .* takes 6"):
        export._check_teachers(teachers, examples(6, 5))
