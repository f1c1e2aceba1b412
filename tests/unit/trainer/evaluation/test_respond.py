from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.evaluation_fakes import (
    write_dialogue_teacher,
    write_recommender,
    write_student,
    write_tiny_data,
)
from trainer.evaluation import latency, respond
from trainer.evaluation.latency import summarised
from trainer.evaluation.response_parts import ResponseParts
from trainer.evaluation.shards import Shard, local_rank, shard_of_rank, shard_option
from trainer.scoring.card import read_system_card
from trainer.scoring.records import Record, read_records

NUM_MESSAGES = 7
Command = Callable[..., None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data and systems."""
    root = tmp_path_factory.mktemp("respond")
    data = write_tiny_data(root / "data")
    write_student(root / "student" / "model", data.vocabulary, seed=3)
    write_dialogue_teacher(root / "teacher", data.vocabulary, seed=4)
    write_recommender(root / "recommender", data, seed=0)
    return root


@pytest.fixture
def command(root: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run the command with a system, an output and further options."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def run(
        output: Path, *options: str, system: str = "student", classifier: str | None = "oracle"
    ) -> None:
        model = ("--checkpoint", str(root / system), "--data", str(root / "data"))
        actions = () if classifier is None else ("--classifier", classifier)
        respond.main([*model, *actions, "--output", str(output), "--batch-size", "2", *options])

    return run


def test_a_file_has_a_record_of_each_message_and_a_card(
    command: Command, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out" / "one.jsonl"
    command(output)
    assert capsys.readouterr().out == f"{output}\n"
    records = read_records(output)
    assert [it.message for it in records] == ["01", "11", "21", "31", "41", "42", "51"]
    card = read_system_card(output)
    assert (card.system, card.split, card.decoding) == ("student", "test", "greedy")
    assert card.seconds is not None and card.seconds > 0
    assert card.latency_ms_median is None
    assert sorted(path.name for path in output.parent.iterdir()) == ["one.json", "one.jsonl"]


def test_an_exported_student_has_the_name_of_its_run(command: Command, tmp_path: Path) -> None:
    output = tmp_path / "one.jsonl"
    command(output, "--limit", "1", system="student/model")
    assert read_system_card(output).system == "student"


@pytest.mark.parametrize(
    "options",
    [
        (),
        pytest.param(
            ("--decoding", "nucleus", "--top-p", "0.8"), marks=pytest.mark.everything, id="nucleus"
        ),
    ],
)
def test_shards_make_the_file_of_one_process(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    command(whole, *options)
    for shard in ("2/3", "0/3", "1/3"):
        assert not shared.exists()
        capsys.readouterr()
        command(shared, "--shard", shard, *options)
    assert capsys.readouterr().out == f"{shared}\n"
    assert shared.read_bytes() == whole.read_bytes()


def test_ranks_of_a_launcher_are_shards(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    output = tmp_path / "ranks.jsonl"
    for rank, said in (("1", "2 of 4 batches are left to other shares"), ("0", str(output))):
        monkeypatch.setenv("RANK", rank)
        command(output)
        assert capsys.readouterr().out == f"{said}\n"
    with pytest.raises(ValueError, match="--shard must be left out where a launcher"):
        command(output, "--shard", "0/2")
    with pytest.raises(ValueError, match="--latency must be measured by one process alone, got 2"):
        command(output, "--latency")


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--decoding", "nucleus", "--seed", "3")
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    command(whole, *options)
    write, written = ResponseParts.write, []

    def fail_later(parts: ResponseParts, batch: int, records: list[Record], seconds: float) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(batch)
        write(parts, batch, records, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(ResponseParts, "write", fail_later)
        with pytest.raises(KeyboardInterrupt):
            command(cut, *options)
    assert not cut.exists()
    written.clear()

    def count(parts: ResponseParts, batch: int, records: list[Record], seconds: float) -> None:
        written.append(batch)
        write(parts, batch, records, seconds)

    monkeypatch.setattr(ResponseParts, "write", count)
    command(cut, *options)
    assert written == [2, 3]
    assert cut.read_bytes() == whole.read_bytes()
    # A file that is whole is left as it is.
    command(cut, *options)
    assert written == [2, 3]


@pytest.mark.everything
def test_seeds_draw_other_responses(command: Command, tmp_path: Path) -> None:
    files = [tmp_path / f"{seed}.jsonl" for seed in (0, 1)]
    for seed, file in enumerate(files):
        command(file, "--decoding", "nucleus", "--seed", str(seed))
    texts = [[record.text for record in read_records(file)] for file in files]
    assert texts[0] != texts[1]
    assert read_system_card(files[1]).decoding == "nucleus p 0.9 seed 1"


def test_a_file_of_another_plan_is_refused(command: Command, tmp_path: Path) -> None:
    output = tmp_path / "one.jsonl"
    command(output, "--limit", "2")
    with pytest.raises(ValueError, match=r"messages of what is in .*one\.jsonl must be 7, got 2"):
        command(output)
    with pytest.raises(ValueError, match=r"checkpoint of what is in .*one\.jsonl must be"):
        command(output, "--limit", "2", system="teacher")
    output.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"--output must be a new file, .* without a card"):
        command(output, "--limit", "2")


def test_parts_of_another_plan_are_refused(command: Command, tmp_path: Path) -> None:
    output = tmp_path / "one.jsonl"
    command(output, "--shard", "0/2")
    with pytest.raises(ValueError, match=r"decoding of what is in .*parts must be nucleus p 0.9"):
        command(output, "--decoding", "nucleus")


def test_parts_that_a_finished_file_left_are_removed(command: Command, tmp_path: Path) -> None:
    output = tmp_path / "one.jsonl"
    command(output)
    before = output.read_bytes()
    (tmp_path / "one.jsonl.parts").mkdir()
    command(output)
    assert output.read_bytes() == before
    assert not (tmp_path / "one.jsonl.parts").exists()


def test_a_rank_that_finds_the_file_joined_leaves_it(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "one.jsonl"
    join = ResponseParts.join

    def after_another(parts: ResponseParts) -> float | None:
        assert join(parts) is not None
        parts.remove()
        return join(parts)

    monkeypatch.setattr(ResponseParts, "join", after_another)
    command(output)
    assert len(read_records(output)) == NUM_MESSAGES
    assert not output.with_suffix(".json").exists()


@pytest.mark.everything
def test_latency_is_added_to_the_card_of_a_whole_file(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "one.jsonl"
    command(output)
    with pytest.raises(ValueError, match="--latency must be measured over more than 20 responses"):
        command(output, "--latency")
    monkeypatch.setattr(latency, "WARM_UP", 2)
    clock = iter([0.0, 1.0] * NUM_MESSAGES)
    monkeypatch.setattr(latency, "perf_counter", lambda: next(clock))
    command(output, "--latency")
    card = read_system_card(output)
    ms = [1000.0 / (record.tokens or 0) for record in read_records(output)][2:]
    assert card.latency_ms_median == pytest.approx(sorted(ms)[2])
    assert card.latency_ms_p90 == pytest.approx(summarised(ms).p90_ms)
    plan = json.loads(output.with_suffix(".json").read_text())["plan"]
    assert plan["messages"] == NUM_MESSAGES


def test_summarised_latency_is_worked_out_by_hand() -> None:
    found = summarised([5.0, 1.0, 3.0, 2.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0])
    assert (found.median_ms, found.p90_ms) == (6.0, 10.0)


def test_a_ranking_system_has_no_latency(command: Command, tmp_path: Path) -> None:
    output = tmp_path / "ranked.jsonl"
    with pytest.raises(ValueError, match="--latency must be of a system that generates"):
        command(output, "--latency", system="recommender")
    command(output, system="recommender")
    assert all(record.ranking and not record.text for record in read_records(output))


def test_a_student_takes_its_action_from_gold_or_is_refused(
    command: Command, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="--classifier oracle"):
        command(tmp_path / "none.jsonl", classifier=None)
    command(tmp_path / "gold.jsonl", "--limit", "1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--top-p", "0.5"), "--top-p must be left out unless --decoding is nucleus, got 0.5"),
        (("--seed", "1"), "--seed must be left out unless --decoding is nucleus, got 1"),
        (("--shard", "2/2"), r"--shard must be I/N with whole numbers 0 <= I < N"),
        (("--decoding", "beam"), "--decoding must be one of greedy, nucleus, got beam"),
        (("--limit", "0"), "--limit must be a whole number in"),
    ],
)
def test_wrong_options_are_one_line(
    command: Command, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        command(tmp_path / "a.jsonl", *options)


def test_an_output_that_is_no_such_file_is_refused(command: Command, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--output must be a file named \*\.jsonl"):
        command(tmp_path / "a.json")
    (tmp_path / "b.jsonl").mkdir()
    with pytest.raises(ValueError, match="--output must be a file, got the folder"):
        command(tmp_path / "b.jsonl")


def test_shards_are_read_from_options_and_launchers() -> None:
    assert shard_option("1/4") == Shard(index=1, count=4)
    assert shard_of_rank({}) == Shard(index=0, count=1)
    assert shard_of_rank({"RANK": "3", "WORLD_SIZE": "8"}) == Shard(index=3, count=8)
    with pytest.raises(ValueError, match="RANK and WORLD_SIZE must be those of a launcher, got 8"):
        shard_of_rank({"RANK": "8", "WORLD_SIZE": "8"})
    assert [local_rank({}), local_rank({"LOCAL_RANK": "2"})] == [0, 2]
