"""`distill.teachers`: what may be said of teachers by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.common.errors import InputError
from trainer.config.distill import DistillConfig
from trainer.config.named_teachers import CutConfig, NamedTeacher
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config, to_yaml

TWO = """
data: a
output: b
distill:
  teachers:
    small: {kind: dialogue, weights_digest: 11aa, weight: 0.25}
    large: {kind: dialogue, weights_digest: 22bb, weight: 0.75, cut: {top_k: 8}}
"""


def load(folder: Path, *overrides: str, text: str = TWO) -> DistillConfig:
    path = folder / "run.yaml"
    path.write_text(text)
    return load_config(RunConfig, path, list(overrides)).distill


def test_named_teachers_are_read_and_written_with_all_that_is_said_of_them(tmp_path: Path) -> None:
    distill = load(tmp_path)
    large = distill.teachers["large"]
    assert (large.weights_digest, large.cut) == ("22bb", CutConfig(top_k=8))
    config = RunConfig(data="a", output="b", distill=distill)
    assert load(tmp_path, text=to_yaml(config)) == distill


def test_mixture_sums_to_one_whatever_the_order_in_the_file(tmp_path: Path) -> None:
    assert list(load(tmp_path).mixture("dialogue").items()) == [("large", 0.75), ("small", 0.25)]
    # A kind without names has one teacher.
    assert load(tmp_path).mixture("recommendation") == {"recommendation": 1.0}


def test_teachers_without_weights_have_equal_parts() -> None:
    teachers = {it: NamedTeacher(kind="dialogue", weights_digest=it) for it in "abc"}
    assert set(DistillConfig(teachers=teachers).mixture("dialogue").values()) == {1 / 3}


def test_thirds_are_scaled_to_one() -> None:
    teachers = {it: NamedTeacher(kind="dialogue", weights_digest=it, weight=0.3333) for it in "abc"}
    parts = DistillConfig(teachers=teachers).mixture("dialogue").values()
    assert sum(parts) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("large.weight=0.5", r"weights that sum to 1 over the dialogue .* large: 0\.5\. Leave all"),
        ("large.weight=null", r"weights that sum to 1 .*got small: 0\.25, large: None"),
        ("large.weight=0", r"teachers\.large\.weight must be in \(0, 1\], got 0"),
        ("large.weight=true", r"teachers\.large\.weight must not be a truth value"),
        ("large.weights_digest=''", r"large must have a weights_digest or a folder beside other"),
        ("large.weights_digest=11", r"large\.weights_digest must be .*string.*, got 11"),
        ("large.weights_digest='11'", r"large\.weights_digest must tell it from small, got 11 and"),
        ("large.folder=x", r"teachers\.large\.folder must be null beside weights_digest"),
        ("large.cut.top_k=65537", r"teachers\.large\.cut\.top_k must be in \[0, 65536\]"),
        ("large.cut.top_p=0", r"teachers\.large\.cut\.top_p must be in \(0, 1\], got 0"),
        ("large.kind=null", r"teachers\.large\.kind must be .*string.*, got None"),
        (
            "large.wieght=1",
            r"unknown key .*large\.wieght\. Did you mean .*large\.w",
        ),
        ("Large={kind: dialogue}", r"must be named by up to 64 of a-z.* got 'Large'"),
        ("large=5", r"teachers\.large must be a group of settings .*, got 5"),
    ],
)
def test_mistake_in_a_named_teacher_names_its_key(
    override: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, f"distill.teachers.{override}")


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("top_k=0", r"top_k must be in \[1, 65536\]"),
        ("top_p=0.5", "null with distill.tail sampled"),
    ],
)
def test_drawn_rows_are_not_cut_otherwise(cut: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, "distill.tail=sampled", f"distill.teachers.large.cut.{cut}")
