"""One forward per dialogue learns what one per response does, at every ZeRO stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.student_runs import TINY, launcher, run_to_end

STEPS = 4
STAGES = ("0", "1", "2", "3")


@pytest.mark.everything
def test_losses_are_the_same_in_fewer_tokens_of_real_dialogues(
    redial_prepared: Path, tmp_path: Path
) -> None:
    result = tmp_path / "steps.json"
    ended = run_to_end(
        [
            *(*launcher(2), "tests/support/one_pass_rank.py", str(result)),
            *("--config", "trainer/configs/redial-mini.yaml", f"data={redial_prepared}"),
            *(f"output={tmp_path / 'run'}", *TINY, "student.dropout=0", "item_vectors=null"),
            *("distill.gamma=0", f"train.steps={STEPS}"),
            # Two forwards a rank, of ragged lengths.
            *("train.micro_batch_size=8", "train.group=dialogue"),
        ]
    )
    assert ended.returncode == 0, ended.stderr
    stages = json.loads(result.read_text())
    assert tuple(stages) == STAGES
    for forms in stages.values():
        for grouped, single in zip(forms["dialogue"], forms["response"], strict=True):
            # Later losses depend on the gradients of the steps before.
            assert grouped["loss"] == pytest.approx(single["loss"], rel=1e-5)
            assert grouped["positions"] == single["positions"]
        tokens = {form: sum(it["tokens"] for it in steps) for form, steps in forms.items()}
        assert len(forms["dialogue"]) == STEPS
        assert 2 * tokens["dialogue"] < tokens["response"]
