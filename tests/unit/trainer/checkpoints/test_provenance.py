from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support.checkpoints import commit
from trainer.checkpoints import files as checkpoint
from trainer.checkpoints import provenance
from trainer.checkpoints.provenance import RunProvenance
from trainer.common.atomic import write_text
from trainer.config.distill import DistillConfig
from trainer.config.language_model import LanguageModelConfig
from trainer.config.named_teachers import NamedTeacher
from trainer.config.run import OptimiserConfig, RunConfig, TrainConfig
from trainer.config.teachers import TeachersConfig
from trainer.config.yaml_file import to_yaml

PROVENANCE = RunProvenance(
    vocabulary="v", graphs="g", examples="e", teachers={"dialogue": "d at 1"}
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of ten steps with its checkpoint."""
    folder = tmp_path / checkpoint.CHECKPOINTS_NAME
    (folder / checkpoint.tag_of(10)).mkdir(parents=True)
    commit(folder, 10, ranks=2, keep=1)
    write_text(tmp_path / provenance.CONFIG_NAME, to_yaml(RunConfig(data="d", output="o")))
    provenance.write_provenance(tmp_path, PROVENANCE)
    return tmp_path


def test_check_same_run_refuses_a_setting_that_changes_losses_done(run: Path) -> None:
    provenance.check_same_run(run, RunConfig(data="d", output="o"))
    # The same folder by another path: what it holds is compared by check_same_provenance.
    longer = RunConfig(data="elsewhere/d", output="elsewhere", train=TrainConfig(steps=77))
    provenance.check_same_run(run, longer)
    # What docs/training.md tells somebody whose memory is not enough.
    leaner = RunConfig(
        data="d",
        output="o",
        student=LanguageModelConfig(activation_checkpointing=True),
    )
    provenance.check_same_run(run, leaner)
    with pytest.raises(ValueError, match=r"^seed must be 0 to go on .*, got 3"):
        provenance.check_same_run(run, RunConfig(data="d", output="o", seed=3))
    with pytest.raises(ValueError, match=r"^train\.batch_size must be"):
        smaller = RunConfig(data="d", output="o", train=TrainConfig(batch_size=4))
        provenance.check_same_run(run, smaller)
    with pytest.raises(ValueError, match=r"^train\.share must be 1\.0 to go on .*, got 0\.5"):
        fewer = RunConfig(data="d", output="o", train=TrainConfig(share=0.5))
        provenance.check_same_run(run, fewer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples": "others"}, "examples must be e .*, got others"),
        ({"vocabulary": "other"}, "vocabulary must be v"),
        ({"teachers": {"dialogue": "x"}}, r"teachers\.dialogue must be d at 1 .*, got x"),
        ({"graphs": "other"}, "graphs must be g"),
        ({"weights": {"item_vectors": "w"}}, r"weights\.item_vectors must be None .*, got w"),
        ({"deepspeed": "x"}, "deepspeed must be  to go on"),
        ({"teachers": {}}, r"teachers\.dialogue must be d at 1 .*, got None"),
    ],
)
def test_check_same_provenance_refuses_other_sources(run: Path, change: dict, message: str) -> None:
    provenance.check_same_provenance(run, PROVENANCE)
    with pytest.raises(ValueError, match=message):
        provenance.check_same_provenance(run, dataclasses.replace(PROVENANCE, **change))


def test_run_of_named_teachers_goes_on_with_the_same_ones_alone(run: Path) -> None:
    def named(**weights: float) -> RunConfig:
        teachers = {
            name: NamedTeacher(kind="dialogue", weights_digest=name, weight=weight)
            for name, weight in weights.items()
        }
        return RunConfig(data="d", output="o", distill=DistillConfig(teachers=teachers))

    (run / provenance.CONFIG_NAME).write_text(to_yaml(named(a=0.5, b=0.5)))
    provenance.check_same_run(run, named(b=0.5, a=0.5))
    for other, message in (
        (named(a=0.25, b=0.75), r"^distill\.teachers\.a\.weight must be 0\.5 to .*, got 0\.25"),
        (named(a=0.5, c=0.5), r"^distill\.teachers\.c\.kind must be None to .*, got dialogue"),
        (named(), r"^distill\.teachers\.a\.kind must be dialogue to go on .*, got None"),
    ):
        with pytest.raises(ValueError, match=message):
            provenance.check_same_run(run, other)


def test_teachers_before_are_those_of_the_run_that_is_gone_on_with(
    run: Path, tmp_path: Path
) -> None:
    assert provenance.teachers_before(run, resume=True) == {"dialogue": "d at 1"}
    assert provenance.teachers_before(run, resume=False) == {}
    assert provenance.teachers_before(tmp_path / "new", resume=True) == {}


def test_check_same_provenance_without_its_file_is_refused_but_a_new_run_is_not(run: Path) -> None:
    (run / provenance.ORIGIN_NAME).unlink()
    with pytest.raises(FileNotFoundError, match=r"origin\.json must name"):
        provenance.check_same_provenance(run, PROVENANCE)
    checkpoint.forget(run / checkpoint.CHECKPOINTS_NAME)
    provenance.check_same_provenance(run, PROVENANCE)


def test_run_of_another_format_is_refused(run: Path) -> None:
    (run / provenance.ORIGIN_NAME).write_text('{"vocabulary": "v"}')
    with pytest.raises(ValueError, match=r"origin\.json must have format 3, got None"):
        provenance.check_same_run(run, RunConfig(data="d", output="o"))


def test_ranks_share_all_that_decides_what_is_learnt_and_no_path() -> None:
    here = RunConfig(data="d", output="o", teachers=TeachersConfig(cache="/here"))
    there = RunConfig(data="/mnt/d", output="/mnt/o", teachers=TeachersConfig(cache="/there"))
    shared = provenance.shared_by_ranks(here, PROVENANCE)
    assert shared == provenance.shared_by_ranks(there, PROVENANCE)
    for other in (
        RunConfig(data="d", output="o", seed=5),
        RunConfig(data="d", output="o", optimiser=OptimiserConfig(learning_rate=0.5)),
        RunConfig(data="d", output="o", action_tokens=False),
    ):
        assert shared != provenance.shared_by_ranks(other, PROVENANCE)
    assert shared != provenance.shared_by_ranks(
        here, dataclasses.replace(PROVENANCE, examples="others")
    )
    assert len(shared["code of trainer"]) == 64
