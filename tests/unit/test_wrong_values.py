"""Wrong values for every option of every command and for every setting: one line, status 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster import demo
from cluster.bench import __main__ as bench
from cluster.capacity import __main__ as capacity
from cluster.grafana import __main__ as grafana
from cluster.proof import __main__ as proof
from cluster.students import __main__ as students
from protos.conformance import __main__ as conformance
from teacher_server import main as teacher_server
from teacher_server.fleet.local_cluster import FleetState, write_state
from tests.support import evaluation_fakes as fakes
from tests.support import tiny_teachers
from tests.support.cluster_commands import CLUSTER_COMMANDS
from tests.support.wrong_values import (
    ABSENT,
    FILE,
    FOLDERS,
    GARBAGE,
    NO_FLAG,
    UNCHECKED,
    UNWRITABLE,
    WORDS,
    Command,
    number,
    options_of,
    refusal,
    whole,
    wrong_settings,
)
from trainer import ablate, chat
from trainer import main as student
from trainer.common.atomic import write_json
from trainer.config.pretrain import ClassifierConfig, RecommendationConfig
from trainer.config.run import RunConfig
from trainer.data import __main__ as data
from trainer.data.corpora.table import CORPORA
from trainer.evaluation import __main__ as evaluation
from trainer.evaluation import divergence, report, respond, score, teachers
from trainer.plan import __main__ as plan
from trainer.pretrain import __main__ as pretrain
from trainer.targets import __main__ as targets

OPTIONS = (Path(__file__).with_name("options.txt")).read_text().splitlines()
CONFIGS = "trainer/configs"
NUMBER_OF_EXAMPLES = 25
MODEL = {"--checkpoint": FOLDERS, "--data": FOLDERS}
SCORED = {
    **{"--data": FOLDERS, "--split": WORDS, "--classifier": FOLDERS, "--limit": whole(1)},
    "--batch-size": whole(1, 1 << 16),
}
WRONG_CONFIGS = {
    "t5": {"model_type": "t5"},
    "uneven": {"model_type": "gpt2", "n_embd": 16, "n_head": 3},
    "headless": {"model_type": "gpt2", "n_embd": 16, "n_head": 0},
    "flat": {"model_type": "gpt2", "n_layer": 0},
    "endless": {"model_type": "gpt2", "n_layer": 10**9},
}
"""Well formed, and of no causal language model."""
WRONG_MODELS = [f"ROOT/{name}" for name in WRONG_CONFIGS]
COUNTS = st.sampled_from(["x", "1,x", "0", "1,,2", "1.5", "257", "-1"])
FLEET = {"--fleet": FILE | GARBAGE}
RUN_NAME = {"--name": st.sampled_from(["", "..", ".hidden", "a/b", "two words", "a" * 65])}
SCALING = {
    "--timeout": number(1, 86_400),
    "--target-queue-ms": number(1, 600_000),
    "--idle-s": number(5, 86_400),
}
COMMANDS = {
    "trainer.main": Command(
        main=student.main,
        right=("--config", f"{CONFIGS}/synthetic.yaml", "data=ROOT/data", "output=ROOT/out"),
        wrong={
            "--config": ABSENT | FILE,
            "--local_rank": whole(0, 1 << 16),
            # Settings have a test of their own.
            "OVERRIDES": UNCHECKED,
        },
    ),
    "trainer.pretrain": Command(
        main=pretrain.main,
        right=(
            *("classifier", "--config", f"{CONFIGS}/pretrain/classifier-synthetic.yaml"),
            *("--output", "ROOT/out", "data=ROOT/data"),
        ),
        wrong={
            "KIND": WORDS,
            "--config": ABSENT | FILE,
            "--output": UNWRITABLE,
            "--local_rank": whole(0, 1 << 16),
            "OVERRIDES": UNCHECKED,
        },
        positional={"KIND": 0},
    ),
    "trainer.ablate": Command(
        main=ablate.main,
        right=("run", "--config", f"{CONFIGS}/ablation.yaml", "--cells", "ROOT/cells"),
        wrong={
            "COMMAND": WORDS,
            "--config": ABSENT | FILE,
            "--seeds": whole(1, 100),
            "--table": WORDS,
            "--limit-cells": whole(1),
            "--again": NO_FLAG,
            "--cells": UNWRITABLE,
            "--output": UNWRITABLE.map(lambda path: f"{path}/page.md"),
        },
        positional={"COMMAND": 0},
    ),
    "trainer.targets build": Command(
        main=targets.main,
        right=(
            *("build", "--config", f"{CONFIGS}/synthetic.yaml", "--output", "ROOT/out"),
            *("data=ROOT/data", "output=ROOT/run"),
        ),
        wrong={
            "--config": ABSENT | FILE,
            "--output": UNWRITABLE,
            "--split": WORDS,
            "OVERRIDES": UNCHECKED,
        },
    ),
    "trainer.targets verify": Command(
        main=targets.main,
        right=("verify", "ROOT/out"),
        wrong={"FOLDER": FOLDERS},
        positional={"FOLDER": 1},
    ),
    "trainer.targets stats": Command(
        main=targets.main,
        right=("stats", "ROOT/out"),
        wrong={"FOLDER": FOLDERS, "--json": NO_FLAG},
        positional={"FOLDER": 1},
    ),
    "trainer.targets export": Command(
        main=targets.main,
        right=("export", "ROOT/absent", "ROOT/exported"),
        wrong={"FOLDER": FOLDERS, "FILE": UNWRITABLE.map(lambda path: f"{path}/file")},
        positional={"FOLDER": 1, "FILE": 2},
    ),
    "trainer.targets import": Command(
        main=targets.main,
        right=("import", "ROOT/file", "ROOT/out"),
        wrong={
            "FILE": ABSENT | FILE | GARBAGE,
            "FOLDER": FILE,
            "--max-bytes": whole(1, 1 << 39),
        },
        positional={"FILE": 1, "FOLDER": 2},
    ),
    "trainer.plan": Command(
        main=plan.main,
        right=("--student", "small", "--gpus", "2", "--gpu-memory", "8GiB"),
        wrong={
            "--student": ABSENT | FILE | GARBAGE | st.sampled_from(WRONG_MODELS),
            "--gpus": whole(1, 1 << 16),
            "--gpu-memory": whole(1) | st.sampled_from(["24", "0GiB", "1e9GiB", "-1GiB", "5 Go"]),
            "--precision": WORDS,
            "--device": WORDS,
            **dict.fromkeys(
                ("--micro-batch", "--length", "--response", "--chunk-size", "--vocabulary"),
                whole(1, 1 << 24),
            ),
            **dict.fromkeys(("--accumulation", "--activation-checkpointing", "--json"), NO_FLAG),
        },
    ),
    "trainer.evaluation": Command(
        main=evaluation.main,
        right=("--checkpoint", "ROOT/model", "--data", "ROOT/data", "--classifier", "oracle"),
        wrong={**SCORED, **MODEL, "--json": NO_FLAG},
    ),
    "trainer.evaluation.divergence": Command(
        main=divergence.main,
        right=("--checkpoint", "ROOT/model", "--teacher", "ROOT/teacher", "--data", "ROOT/data"),
        wrong={
            **MODEL,
            **{"--teacher": FOLDERS, "--split": WORDS, "--limit": whole(1)},
            "--output": UNWRITABLE.map(lambda path: f"{path}/file"),
        },
    ),
    "trainer.evaluation.respond": Command(
        main=respond.main,
        right=(
            *("--checkpoint", "ROOT/model", "--data", "ROOT/data", "--classifier", "oracle"),
            *("--output", "ROOT/responses.jsonl"),
        ),
        wrong={
            **{**SCORED, **MODEL},
            "--output": UNWRITABLE.map(lambda path: f"{path}/a.jsonl") | st.just("ROOT/a.txt"),
            "--decoding": WORDS,
            "--top-p": number(0.01, 1),
            "--seed": whole(0, (1 << 32) - 1),
            "--shard": st.sampled_from(["", "x", "1", "1/1", "2/1", "-1/2", "0/0", "1/", "0/1e3"]),
            "--latency": NO_FLAG,
            "--local_rank": whole(0, 1 << 16),
        },
    ),
    "trainer.evaluation.score": Command(
        main=score.main,
        right=("ROOT/absent.jsonl", "--data", "ROOT/data"),
        wrong={
            "FILES": ABSENT | FILE | GARBAGE,
            "--data": FOLDERS,
            "--split": WORDS,
            "--baselines": WORDS | st.sampled_from(["copy,copy", "copy,", ",random"]),
            "--json": NO_FLAG,
        },
        positional={"FILES": 0},
    ),
    "trainer.evaluation.report": Command(
        main=report.main,
        right=(
            *(
                "--run",
                "ROOT/distilled",
                "--undistilled",
                "ROOT/undistilled",
                "--data",
                "ROOT/data",
            ),
            *("--dialogue-teacher", "ROOT/teacher", "--classifier", "oracle"),
        ),
        wrong={
            **SCORED,
            **dict.fromkeys(("--run", "--undistilled", "--dialogue-teacher", "--plain"), FOLDERS),
            "--teachers": FOLDERS,
            "--oracle": NO_FLAG,
        },
    ),
    "trainer.evaluation.teachers": Command(
        main=teachers.main,
        right=("--data", "ROOT/data", "--output", "ROOT/out", "--dialogue", "ROOT/teacher"),
        wrong={
            "--data": FOLDERS,
            "--output": UNWRITABLE,
            "--split": WORDS,
            **dict.fromkeys(("--recommendation", "--dialogue", "--classifier"), FOLDERS),
        },
    ),
    "trainer.chat": Command(
        main=chat.main,
        right=("--checkpoint", "ROOT/model", "--data", "ROOT/data"),
        wrong={**MODEL, "--classifier": FOLDERS | st.just("oracle"), "--json": NO_FLAG},
    ),
    "trainer.data download": Command(
        main=data.main,
        right=("download", "redial", "--output", "ROOT/out"),
        wrong={"WHAT": WORDS, "--output": UNWRITABLE},
        positional={"WHAT": 1},
    ),
    "trainer.data prepare": Command(
        main=data.main,
        right=(
            *("prepare", "--source", "synthetic", "--input", "ROOT/raw", "--graph", "ROOT/raw"),
            *("--output", "ROOT/out"),
        ),
        wrong={
            "--source": WORDS,
            "--plugin": WORDS.map(lambda name: f"no.such.{name}"),
            "--input": FOLDERS,
            "--graph": FOLDERS,
            "--conceptnet": ABSENT | FILE | GARBAGE,
            "--output": UNWRITABLE,
            "--tokenizer": FOLDERS | st.just(""),
            "--max-context": whole(1, 1 << 16),
            "--max-response": whole(1, 1 << 16),
            "--seed": whole(0, (1 << 32) - 1),
            "--dialogues": whole(1, 1 << 20),
            **dict.fromkeys(
                ("--drop-unlinked", "--no-entity-links", "--no-words", "--skip-bad"), NO_FLAG
            ),
        },
    ),
    "teacher_server up": Command(
        main=teacher_server.main,
        right=("up", "--dialogue", "ROOT/dialogue", "--fleet", "ROOT/new.json"),
        wrong={
            **SCALING,
            "--fleet": st.sampled_from(["ROOT/file/below", "/proc/below"]),
            **dict.fromkeys(("--dialogue", "--recommendation"), FOLDERS),
            "--teacher": st.sampled_from(
                ["", "moon", "moon=ROOT/dialogue", "=", "dialogue=absent"]
            ),
            "--plugin": WORDS.map(lambda name: f"no.such.{name}"),
            "--replicas": st.sampled_from(["x", "dialogue", "dialogue=x", "dialogue=2..1", "a=1"]),
            "--dtype": st.sampled_from(
                ["bf16", "dialogue", "dialogue=", "dialogue=float64", "moon=bf16", "=bf16"]
            ),
            "--deterministic": NO_FLAG,
            "--port": whole(1, 65_535),
            "--replica-ports": st.sampled_from(["", "50100", "2-1", "0-9", "1-65536"]),
            "--host": st.sampled_from(["0.0.0.0", "203.0.113.7", "no such host", "::"]),
            "--tls": FOLDERS,
            "--token-file": FOLDERS,
            "--insecure": NO_FLAG,
            "--metrics": st.sampled_from(["0.0.0.0", "203.0.113.7", "no such host"]),
            "--spans": st.sampled_from(["x", "ftp://a/b", "127.0.0.1:4318"]),
            # What answers there only a network can say.
            "--address": UNCHECKED,
            "--threads": whole(1, 1024),
            "--num-cpus": number(0, 1024),
            "--num-gpus": number(0, 64).filter(bool)
            | st.sampled_from(["1.5", "dialogue=1.5", "dialogue=", "moon=1", "1,1", "dialogue=3"]),
            "--token-budget": whole(1, 1 << 24),
            "--cluster-cpus": whole(1, 4096),
        },
    ),
    "teacher_server scale": Command(
        main=teacher_server.main,
        right=("scale", "dialogue=2", "--fleet", "ROOT/fleet.json"),
        wrong={
            **{**SCALING, **FLEET},
            "REPLICAS": st.sampled_from(["x", "dialogue=x", "moon=1", "dialogue=2..1"]),
        },
        positional={"REPLICAS": 1},
    ),
    "teacher_server roll": Command(
        main=teacher_server.main,
        right=("roll", "--fleet", "ROOT/fleet.json"),
        wrong={
            **FLEET,
            **dict.fromkeys(("--dialogue", "--recommendation"), FOLDERS),
            "--teacher": st.sampled_from(["", "moon", "moon=ROOT/dialogue", "="]),
            "--drain-s": number(1, 2_592_000),
            "--json": NO_FLAG,
            "--timeout": number(1, 86_400),
        },
    ),
    "teacher_server status": Command(
        main=teacher_server.main,
        right=("status", "--fleet", "ROOT/absent"),
        wrong={
            **FLEET,
            **dict.fromkeys(("--json", "--prometheus"), NO_FLAG),
            "--watch": number(0.2, 3600),
        },
    ),
    "teacher_server down": Command(
        main=teacher_server.main, right=("down", "--fleet", "ROOT/absent"), wrong=FLEET
    ),
    "teacher_server certificates": Command(
        main=teacher_server.main,
        right=("certificates", "--output", "ROOT/certificates"),
        wrong={"--output": UNWRITABLE, "--days": whole(1, 3650)},
    ),
    "protos.conformance": Command(
        main=conformance.main,
        # Nobody listens there.
        right=("127.0.0.1:1", "--timeout", "0.5"),
        wrong={
            "ADDRESS": st.sampled_from(["", "x", "127.0.0.1", ":1", "::1:5", "203.0.113.7:1"]),
            "--json": NO_FLAG,
            "--tls": FOLDERS,
            "--token-file": FOLDERS,
            "--insecure": NO_FLAG,
            "--timeout": number(0.1, 3600),
        },
        positional={"ADDRESS": 0},
    ),
    "cluster.demo": Command(
        main=demo.main,
        right=("--data", "ROOT/raw", "--output", "ROOT/demo"),
        wrong={"--data": ABSENT | FILE, "--output": UNWRITABLE, "--resume": NO_FLAG},
    ),
    "cluster.bench": Command(
        main=bench.main,
        right=("scaling", "--data", "ROOT/raw"),
        wrong={
            "NAME": WORDS,
            "--data": ABSENT | FILE,
            "--students": COUNTS,
            "--teachers": COUNTS,
            "--address": UNCHECKED,
            "--config": ABSENT | FILE,
            "--json": NO_FLAG,
        },
        positional={"NAME": 0},
    ),
    "cluster.capacity": Command(
        main=capacity.main,
        right=("--students", "32", "--student", "large"),
        wrong={
            "--students": whole(1, 1 << 16),
            "--teachers": whole(1, 1 << 16),
            "--batch": whole(1, 1 << 20),
            "--link-gbit": number(0.001, 1e5),
            **dict.fromkeys(("--student", "--teacher", "--gpu", "--teacher-gpu", "--zero"), WORDS),
            "--draw": st.sampled_from(["ROOT/file/below", "/proc/below"]),
            "--json": NO_FLAG,
        },
    ),
    "cluster.proof": Command(
        main=proof.main,
        right=("--output", "ROOT/proof"),
        # Where the output may lie only the machine says, after it was found to have namespaces.
        wrong={"--short": NO_FLAG, "--events": WORDS, "--output": UNCHECKED},
    ),
    "cluster.students run": Command(
        main=students.main,
        right=("run", "--name", "one"),
        wrong={
            **RUN_NAME,
            **dict.fromkeys(("--nodes", "--min-nodes"), whole(1, 1 << 16)),
            "--slots": whole(0, 1 << 16),
            "--wait": number(0, 86_400),
        },
    ),
    "cluster.students status": Command(
        main=students.main,
        right=("status", "--name", "one"),
        wrong={**RUN_NAME, "--json": NO_FLAG},
    ),
    **{
        f"cluster.students {name}": Command(
            main=students.main, right=(name, "--name", "one"), wrong=RUN_NAME
        )
        for name in ("follow", "stop")
    },
    **CLUSTER_COMMANDS,
}
SETTINGS = {
    "trainer.main": (student.main, RunConfig, ("--config", f"{CONFIGS}/synthetic.yaml")),
    **{
        f"trainer.pretrain {kind}": (
            pretrain.main,
            cls,
            (kind, "--config", f"{CONFIGS}/pretrain/{kind}-synthetic.yaml", "--output", "ROOT/out"),
        )
        for kind, cls in (
            ("dialogue", RunConfig),
            ("recommendation", RecommendationConfig),
            ("classifier", ClassifierConfig),
        )
    },
}
quick = settings(
    max_examples=NUMBER_OF_EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with right inputs of all commands, and with what a user may mistake for them."""
    root = tmp_path_factory.mktemp("wrong")
    prepared = fakes.write_tiny_data(root / "data")
    vocabulary = prepared.vocabulary
    fakes.write_student(root / "model", vocabulary, seed=1)
    fakes.write_dialogue_teacher(root / "teacher", vocabulary, seed=2)
    fakes.write_run(root / "distilled", vocabulary, seed=1, teachers=True)
    fakes.write_run(root / "undistilled", vocabulary, seed=3, teachers=False)
    tiny_teachers.write_dialogue_teacher(root / "dialogue", tiny_teachers.tiny_vocabulary())
    write_state(
        root / "fleet.json", FleetState(ray_address="", directory="", options={"dialogue": {}})
    )
    synthetic = CORPORA["synthetic"].write
    assert synthetic is not None
    synthetic(root / "raw", 0, 30)
    (root / "file").write_bytes(b"\xff\xfe\x00 no text")
    (root / "garbage").mkdir()
    names = ("manifest.json", "student.json", "config.json", "config.yaml", "teacher.json")
    for name in (*names, "train_data.jsonl", "entity2id.json", "ca.pem", "tokenizer.json"):
        (root / "garbage" / name).write_text("[" * 5)
    for name, content in WRONG_CONFIGS.items():
        (root / name).mkdir()
        write_json(root / name / "config.json", content)
    for name in ("model.safetensors", "data.mdb"):
        (root / "garbage" / name).write_bytes(b"\x00" * 64)
    return root


def test_every_option_of_every_command_has_wrong_values() -> None:
    listed = {
        line.rpartition(" ")[0].removeprefix("python -m ")
        for line in OPTIONS
        if line.startswith("python -m ")
    }
    parents = {"trainer.data", "trainer.targets", "teacher_server", "cluster", "cluster.students"}
    # Another program's options: cluster.capacity.
    parents.add("cluster capacity")
    assert listed - parents == set(COMMANDS)
    for name, command in COMMANDS.items():
        assert set(options_of(OPTIONS, name)) == set(command.wrong), name


@pytest.mark.parametrize("name", COMMANDS)
@given(drawn=st.data())
@quick
def test_wrong_value_of_an_option_is_one_line(
    name: str,
    root: Path,
    drawn: st.DataObject,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = COMMANDS[name]
    option, value, line = drawn.draw(command.wrong_lines())
    line = [part.replace("ROOT", str(root)) for part in line]
    said = refusal(command.main, line, monkeypatch, capsys)
    shown = " ".join(value.replace("ROOT", str(root)).split())
    # A positional argument is named as in the usage.
    assert option in said or option.lower() in said or shown in said, f"{line}: {said}"


@pytest.mark.parametrize("name", SETTINGS)
@given(drawn=st.data())
@quick
def test_wrong_value_of_a_setting_is_one_line_that_names_it(
    name: str,
    root: Path,
    drawn: st.DataObject,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main, cls, right = SETTINGS[name]
    key, value = drawn.draw(wrong_settings(cls))
    line = [*(part.replace("ROOT", str(root)) for part in right), "data=d", f"{key}={value}"]
    if "output" not in key and name == "trainer.main":
        line.append("output=o")
    said = refusal(main, line, monkeypatch, capsys)
    assert key in said, f"{line}: {said}"


def test_dashboard_takes_no_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refusal(grafana.main, ["x"], monkeypatch, capsys)
    assert "arguments must be those of --help, got x" in said
