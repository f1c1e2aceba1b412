from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.support.evaluation_fakes import write_tiny_data
from trainer.common.errors import InputError
from trainer.config.distill import DistillConfig
from trainer.config.pretrain import ClassifierConfig, RecommendationConfig
from trainer.config.removed import REMOVED
from trainer.config.run import RunConfig, TrainConfig
from trainer.config.yaml_file import load_config, setting_names, to_yaml
from trainer.data.dialogue_share import training_examples
from trainer.data.examples import write_examples
from trainer.export import resolve_num_steps

CONFIGS = Path(__file__).resolve().parents[4] / "trainer" / "configs"


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_config_overrides_reach_nested_fields(tmp_path: Path) -> None:
    path = write(tmp_path, "data: a\noutput: b\ndistill: {gamma: 0.5}\n")
    config = load_config(
        RunConfig, path, ["distill.gamma=0", "train.steps=7", "student.pretrained=x"]
    )
    assert (config.distill.gamma, config.train.steps, config.student.pretrained) == (0.0, 7, "x")


def test_config_round_trips_through_yaml(tmp_path: Path) -> None:
    config = RunConfig(data="a", output="b", distill=DistillConfig(gate="soft"))
    assert load_config(RunConfig, write(tmp_path, to_yaml(config)), []) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.keep_freed_memory=false",
            "train.keep_freed_memory was removed, set MALLOC_MMAP_THRESHOLD_=1048576 in the env",
        ),
        ("distil.gamma=0", "unknown key distil. Did you mean distill?"),
        ("distill.gama=0", "unknown key distill.gama. Did you mean distill.gamma?"),
        ("steps=7", "unknown key steps. Did you mean train.steps?"),
        ("distill.zzz=0", "unknown key distill.zzz. Known: distill.gamma, "),
        ("student.new_rows=titles", "student.new_rows was removed, films' own rows .* Delete"),
        ("output.x=1", "output.x must name a setting in a group .*, got 'b' for output"),
        ("distill.gamma=1.5", r"distill.gamma must be in \[0, 1\], got 1.5"),
        ("distill.gate=fuzzy", "distill.gate must be 'hard', 'soft' or 'fixed', got 'fuzzy'"),
        ("distill.gate=fixed", "distill.fixed_lambda must be given with distill.gate fixed"),
        ("distill.fixed_lambda=0.5", r"and only then, got 0\.5 and hard"),
        ("train.keep_checkpoints=0", "train.keep_checkpoints must be at least 1, got 0"),
        ("distill.recommendation_top_p=0", r"recommendation_top_p must be in \(0, 1\], got 0"),
        ("teachers.patience_s=100000", r"patience_s must be in \(0, 21600\] seconds"),
        ("teachers.max_bytes=9", "teachers.max_bytes was removed, teachers.in_flight bounds"),
        ("teachers.cache_bytes=0", r"cache_bytes must be in \[1, \d+\], got 0"),
        ("watch.metrics_port=65536", r"watch.metrics_port must be in \[1, 65535\], got 65536"),
        (
            "watch={metrics_port: 9100, metrics_host: 10.0.0.1}",
            r"watch.metrics_host must be a loopback .* got 10.0.0.1. Set teachers.tls",
        ),
        ("seed=99999999999999999999", "seed must be a number of at most 64 bits, got 9999"),
        ("train.steps=many", "train.steps must be .*integer.*, got 'many'"),
        ("train.steps=0", "train.steps must be at least 1, got 0"),
        ("train.epochs=0", "train.epochs must be at least 1, got 0"),
        ("zero_stage=4", "zero_stage must be .*got 4"),
        ("student.num_heads=3", r"divisible by student\.num_heads, got 256 and 3"),
        ("steps", "override must be key=value, got 'steps'"),
    ],
)
def test_config_mistake_names_the_key(tmp_path: Path, override: str, message: str) -> None:
    path = write(tmp_path, "data: a\noutput: b\n")
    with pytest.raises(ValueError, match=message):
        load_config(RunConfig, path, [override])


@pytest.mark.parametrize("name", ["action_history", "action_loss"])
def test_a_reading_of_action_tokens_without_them_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, f"data: a\noutput: b\n{name}: true\n")
    assert load_config(RunConfig, path, []).action_tokens
    with pytest.raises(ValueError, match=f"{name} must be false with action_tokens false"):
        load_config(RunConfig, path, ["action_tokens=false"])


@pytest.mark.parametrize("cls", [RunConfig, ClassifierConfig, RecommendationConfig])
def test_unknown_key_is_refused_before_a_key_that_is_missing(cls: type, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown key dta\. Did you mean data\?"):
        load_config(cls, write(tmp_path, "dta: a\n"), [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.steps=true",
            r"train\.steps=true: train\.steps must not be a truth value, got true",
        ),
        ("distill.gamma=yes", r"distill\.gamma must not be a truth value"),
        ("distill.shares={x: true}", r"distill\.shares\.x must not be a truth value"),
        ("zero_stage=on", r"zero_stage must not be a truth value"),
        (
            "optimiser.beta1=.nan",
            r"optimiser\.beta1=\.nan: optimiser\.beta1 must be a finite number",
        ),
        ("teachers.patience_s=inf", r"teachers\.patience_s must be a finite number, got 'inf'"),
        (f"train.steps={10**22}", r"train\.steps must be a number of at most 64 bits, got 1000"),
        ("train.steps='99999999999999999999999'", r"train\.steps must be a number of at most 64"),
        ("train=null", r"train must be a group of settings \(key: value\), got None"),
        ("distill={1: 2}", r"every key must be text, got 1"),
        ("train={steps: [", r"the value of train must be YAML, got '\{steps: \['"),
        ("output=2020-99-99", r"the value of output must be YAML, got '2020-99-99'"),
        ("train={1: 2}", r"train=\{1: 2\}: "),
        (
            "student.hidden_size=255",
            r"student\.hidden_size=255: student\.hidden_size must be divis",
        ),
    ],
)
def test_value_of_another_kind_is_refused_and_the_override_is_named(
    tmp_path: Path, override: str, message: str
) -> None:
    path = write(tmp_path, "data: a\noutput: b\n")
    with pytest.raises(InputError, match=message):
        load_config(RunConfig, path, [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", r"run\.yaml must be UTF-8 text, got byte 0xff at 0"),
        (b"[1, 2]", r"run\.yaml must hold key: value pairs, got \[1, 2\]"),
        (b"5: 6", r"run\.yaml must hold key: value pairs, got \{5: 6\}"),
        (b"[" * 2_000, r"run\.yaml must be YAML"),
        (b"data: 5\noutput: b", r"run\.yaml: data must be a valid string, got 5"),
        (b"train: 7\ndata: a\noutput: b", r"run\.yaml: train must be "),
    ],
)
def test_broken_config_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_config(RunConfig, path, [])


def test_removed_settings_are_gone() -> None:
    names = {*setting_names(RunConfig), *setting_names(ClassifierConfig)}
    assert not names & REMOVED.keys()


def test_config_of_fp16_at_stage_0_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "data: a\noutput: b\ntrain: {precision: fp16}\n")
    with pytest.raises(ValueError, match=r"zero_stage must be at least 1 with .* fp16, got 0"):
        load_config(RunConfig, path, ["zero_stage=0"])


def test_config_of_steps_beside_epochs_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "data: a\noutput: b\ntrain: {epochs: 2}\n")
    with pytest.raises(ValueError, match=r"train\.steps must be null beside .*, got 9"):
        load_config(RunConfig, path, ["train.steps=9"])
    assert load_config(RunConfig, path, ["train.steps=9", "train.epochs=null"]).train.num_steps == 9


def test_epochs_are_whole_batches_of_the_training_examples(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path)
    num_examples = data.manifest.splits["train"].responses
    assert num_examples == len(data.examples("train"))
    config = RunConfig(data="", output="", train=TrainConfig(epochs=3, batch_size=2))
    assert resolve_num_steps(config, data).train.num_steps == 3 * (num_examples // 2)
    assert resolve_num_steps(RunConfig(data="", output=""), data).train.num_steps == 1000


def test_epochs_of_a_share_are_whole_batches_of_its_examples(tmp_path: Path) -> None:
    data = write_tiny_data(tmp_path)
    # Each example is a dialogue of its own.
    examples = [replace(it, example_id=f"{n}:1") for n, it in enumerate(data.examples("train"))]
    write_examples(tmp_path / "train.jsonl", examples)
    train = TrainConfig(epochs=3, batch_size=1, share=0.5)
    num_examples = len(training_examples(data, train))
    assert num_examples == len(examples) // 2
    config = RunConfig(data="", output="", train=train)
    assert resolve_num_steps(config, data).train.num_steps == 3 * num_examples


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("train.share=0", r"train\.share must be in \(0, 1\], got 0"),
        ("train.share=1.5", r"train\.share must be in \(0, 1\], got 1.5"),
        ("train.share_seed=-1", r"train\.share_seed must be in \[0, .*, got -1"),
    ],
)
def test_config_of_a_share_that_is_none_is_refused(tmp_path: Path, setting: str, rule: str) -> None:
    path = write(tmp_path, "data: a\noutput: b\n")
    with pytest.raises(ValueError, match=rule):
        load_config(RunConfig, path, [setting])


def test_config_without_a_required_key_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"output must be given, got nothing"):
        load_config(RunConfig, write(tmp_path, "data: a\n"), [])


def test_config_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.yaml must be a file"):
        load_config(RunConfig, tmp_path / "none.yaml", [])


@pytest.mark.parametrize(
    "path",
    # Those of ablations hold a run each, and have tests of their own.
    sorted(path for path in CONFIGS.rglob("*.yaml") if not path.stem.startswith("ablation")),
    ids=lambda path: str(path.relative_to(CONFIGS)),
)
def test_config_that_we_ship_is_valid(path: Path) -> None:
    assert "data" in yaml.safe_load(path.read_text())
    kind = path.stem.split("-")[0] if path.parent.name == "pretrain" else "student"
    if kind in ("student", "dialogue"):
        config = load_config(RunConfig, path, ["output=here"])
        assert (config.distill.gamma > 0) == (kind == "student")
    else:
        load_config(
            {"recommendation": RecommendationConfig, "classifier": ClassifierConfig}[kind], path, []
        )
