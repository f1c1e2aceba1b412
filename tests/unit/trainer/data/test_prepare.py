from __future__ import annotations

import dataclasses
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.padding import padding
from trainer.common.errors import InputError, MissingError
from trainer.data.__main__ import main
from trainer.data.dialogue import Dialogue
from trainer.data.prepare import movie_titles
from trainer.data.prepared import load_prepared


@pytest.fixture(scope="module")
def prepared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    main(["prepare", "--source", "synthetic", "--output", str(folder), "--dialogues", "30"])
    return folder


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_prepare_synthetic_gives_a_folder_whose_manifest_counts_it(prepared_dir: Path) -> None:
    prepared = load_prepared(prepared_dir)
    manifest = json.loads((prepared_dir / "manifest.json").read_text())
    assert manifest["source"] == "synthetic"
    assert manifest["vocab_size"] == prepared.vocabulary.size
    assert manifest["options"] == {
        "max_context": 256,
        "max_response": 30,
        "drop_unlinked": False,
        "link_entities": True,
    }
    for split, dialogues in (("train", 30), ("valid", 3), ("test", 4)):
        examples = prepared.examples(split)
        counts = manifest["splits"][split]
        lines = (prepared_dir / "raw" / f"{split}_data.jsonl").read_text().splitlines()
        assert counts["dialogues"] == dialogues == len(lines)
        assert counts["messages"] == sum(len(json.loads(line)["messages"]) for line in lines)
        assert counts["responses"] == len(examples)
        assert counts["responses_with_item"] == sum(e.is_recommendation for e in examples)
        assert counts["recommendation_samples"] == sum(e.gold_items.size for e in examples)


def test_prepare_synthetic_from_its_raw_folder_gives_the_same_examples(
    prepared_dir: Path, tmp_path: Path
) -> None:
    raw = prepared_dir / "raw"
    main(["prepare", "--source", "synthetic", "--input", str(raw), "--output", str(tmp_path)])
    first, second = load_prepared(prepared_dir).manifest, load_prepared(tmp_path).manifest
    assert dataclasses.replace(second, command=first.command) == first
    assert (tmp_path / "test.jsonl").read_text() == (prepared_dir / "test.jsonl").read_text()


def test_prepare_redial_takes_a_tokenizer_folder_and_limits(
    prepared_dir: Path, tmp_path: Path
) -> None:
    arguments = ["prepare", "--source", "redial", "--input", str(prepared_dir / "raw")]
    arguments += ["--tokenizer", str(prepared_dir / "tokenizer"), "--output", str(tmp_path)]
    main([*arguments, "--max-context", "12", "--max-response", "5"])
    prepared = load_prepared(tmp_path)
    assert prepared.vocabulary.digest == load_prepared(prepared_dir).vocabulary.digest
    examples = prepared.examples("train")
    assert max(len(example.context_ids) for example in examples) == 12
    assert max(len(example.response_ids) for example in examples) == 5


def test_prepare_without_valid_file_draws_one_and_publishes_its_ids(
    prepared_dir: Path, tmp_path: Path
) -> None:
    raw = copy_of(prepared_dir / "raw", tmp_path)
    (raw / "valid_data.jsonl").unlink()
    arguments = ["prepare", "--source", "synthetic", "--input", str(raw)]
    main([*arguments, "--output", str(tmp_path / "output")])
    manifest = load_prepared(tmp_path / "output").manifest
    assert len(manifest.drawn_valid_ids) == manifest.splits["valid"].dialogues == 3
    assert manifest.splits["train"].dialogues == 27
    lines = (raw / "train_data.jsonl").read_text().splitlines()
    assert set(manifest.drawn_valid_ids) < {json.loads(line)["conversationId"] for line in lines}


def test_prepare_takes_graph_words_and_options_from_elsewhere(
    prepared_dir: Path, tmp_path: Path
) -> None:
    raw = copy_of(prepared_dir / "raw", tmp_path)
    graph = tmp_path / "graph"
    graph.mkdir()
    for path in raw.glob("*.json"):
        path.rename(graph / path.name)
    (words,) = raw.glob("conceptnet*")
    words.rename(tmp_path / "relations.csv.gz")
    with zipfile.ZipFile(tmp_path / "redial.zip", "w") as archive:
        for path in raw.glob("*.jsonl"):
            archive.write(path, f"redial/{path.name}")
    arguments = ["--source", "synthetic", "--input", str(tmp_path / "redial.zip")]
    arguments += ["--graph", str(graph), "--conceptnet", str(tmp_path / "relations.csv.gz")]
    arguments += ["--drop-unlinked", "--no-entity-links", "--output", str(tmp_path / "output")]
    main(["prepare", *arguments])
    other, whole = load_prepared(tmp_path / "output"), load_prepared(prepared_dir)
    assert other.words.digest == whole.words.digest
    for split in ("train", "valid", "test"):
        ours, theirs = other.manifest.splits[split], whole.manifest.splits[split]
        assert ours.recommendation_samples == ours.as_kgsf.recommendation_samples
        assert ours.as_kgsf == theirs.as_kgsf
        assert ours.responses_with_item == theirs.responses_with_item
        assert ours.context_entities < theirs.context_entities


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--source", "nothing"], "--source must be one of redial, synthetic, got nothing"),
        (["--source", "synthetic", "--stop-words=x"], "--stop-words must be left out: .*conceptn"),
        (["--source", "redial"], "--input must be given for --source redial"),
        (
            ["--source", "redial", "--input", "nowhere"],
            "--input must be the .* got nowhere",
        ),
        (["--source", "synthetic", "--input", "x", "--dialogues", "3"], "must be left out"),
        (["--source", "synthetic", "--dialogues", "0"], "--dialogues must be a whole number in"),
        (["--source", "synthetic", "--max-response", "1"], "max_response must be at least 2"),
        (["--source", "synthetic", "--tokenizer", " "], "--tokenizer must be a folder .*, got ' '"),
        (["--source", "synthetic", "--graph", "nowhere"], "--graph must be the folder .* nowhere"),
    ],
)
def test_prepare_with_bad_arguments_says_what_to_do(
    tmp_path: Path, arguments: list[str], expected: str
) -> None:
    output = tmp_path / "output"
    with pytest.raises((ValueError, OSError), match=expected):
        main(["prepare", *arguments, "--output", str(output)])
    assert not output.exists()


def test_prepare_with_missing_split_or_repeated_dialogue_names_it(
    prepared_dir: Path, tmp_path: Path
) -> None:
    raw = copy_of(prepared_dir / "raw", tmp_path)
    arguments = ["prepare", "--source", "synthetic", "--input", str(raw)]
    arguments += ["--output", str(tmp_path / "output")]
    shutil.copy(raw / "test_data.jsonl", raw / "valid_data.jsonl")
    with pytest.raises(InputError, match="every record must be a dialogue, got 4 that") as caught:
        main(arguments)
    for line, told in enumerate(caught.value.details, start=1):
        assert f"test_data.jsonl:{line}: dialogue" in told
        assert "must be in one split once, got it in valid and test (first at " in told
    (raw / "test_data.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"test_data\.jsonl must be a file"):
        main(arguments)


def test_load_prepared_refuses_what_does_not_fit_together(
    prepared_dir: Path, tmp_path: Path
) -> None:
    folder = copy_of(prepared_dir, tmp_path)
    path = folder / "test.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"test\.jsonl must hold \d+ examples"):
        load_prepared(folder).examples("test")
    record = {**json.loads(lines[0]), "response_ids": [999_999]}
    path.write_text("".join([json.dumps(record) + "\n", *lines[1:]]))
    with pytest.raises(ValueError, match="response_ids of"):
        load_prepared(folder).examples("test")
    with pytest.raises(ValueError, match="split must be one of train, valid, test, got dev"):
        load_prepared(folder).examples("dev")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "graph_digest": "0"}))
    with pytest.raises(ValueError, match=r"graph in .* must have digest 0"):
        load_prepared(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="must be a manifest"):
        load_prepared(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"must be a prepared folder"):
        load_prepared(folder)


def test_output_is_checked_before_the_input_and_is_never_the_input(tmp_path: Path) -> None:
    arguments = ["prepare", "--source", "redial", "--output", "/proc/x", "--input", "nowhere"]
    with pytest.raises(InputError, match="--output must be a folder that can be written"):
        main(arguments)
    same = ["--input", str(tmp_path), "--output", str(tmp_path / "x" / "..")]
    with pytest.raises(InputError, match="--output must be another folder than --input"):
        main(["prepare", "--source", "redial", *same])


def test_missing_graph_words_or_tokenizer_is_told_before_anything_is_read(
    prepared_dir: Path, tmp_path: Path
) -> None:
    raw = copy_of(prepared_dir / "raw", tmp_path)
    output = tmp_path / "output"
    # A bad line would be told as soon as the dialogues are read.
    (raw / "train_data.jsonl").write_text("{!")
    arguments = ["prepare", "--source", "redial", "--input", str(raw), "--output", str(output)]
    with pytest.raises(InputError, match=r"got microsoft/DialoGPT-small: .*HF_HUB_OFFLINE=1\."):
        main(arguments)
    arguments += ["--tokenizer", str(prepared_dir / "tokenizer")]
    with pytest.raises(MissingError, match=r"--conceptnet must be .* got no file x\..*--no-words"):
        main([*arguments, "--conceptnet", "x"])
    (words,) = raw.glob("conceptnet*")
    words.unlink()
    with pytest.raises(MissingError, match=r"must hold conceptnet.* without .*: --no-words"):
        main(arguments)
    with pytest.raises(InputError, match=r"train_data\.jsonl:1: "):
        main([*arguments, "--no-words"])
    (raw / "entity2id.json").unlink()
    with pytest.raises(MissingError, match=r"entity2id\.json must be .* got none\. .*--graph"):
        main(arguments)
    assert not output.exists()


def test_prepare_without_words_needs_no_conceptnet(prepared_dir: Path, tmp_path: Path) -> None:
    raw = copy_of(prepared_dir / "raw", tmp_path)
    (words,) = raw.glob("conceptnet*")
    words.unlink()
    output = tmp_path / "output"
    arguments = ["--source", "synthetic", "--input", str(raw), "--output", str(output)]
    main(["prepare", *arguments, "--no-words"])
    prepared = load_prepared(output)
    assert prepared.words.words == ()
    assert prepared.graph.digest == load_prepared(prepared_dir).graph.digest


def test_skipped_records_are_printed_counted_and_in_the_manifest(
    prepared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = copy_of(prepared_dir / "raw", tmp_path)
    path = raw / "train_data.jsonl"
    lines = path.read_text().splitlines()
    same = json.dumps({**json.loads(lines[2]), "respondentWorkerId": 1, "initiatorWorkerId": 1})
    lines[1:3] = ["[" * 200_000, same]
    path.write_text("\n".join([*lines, lines[0]]) + "\n")
    output = tmp_path / "output"
    arguments = ["--source", "synthetic", "--input", str(raw), "--output", str(output)]
    with pytest.raises(InputError, match="got 3 that are not"):
        main(["prepare", *arguments])
    assert not output.exists()
    main(["prepare", *arguments, "--skip-bad"])
    manifest = load_prepared(output).manifest
    assert manifest.splits["train"].dialogues == 28
    assert manifest.splits["train"].oddities.skipped_records == 3
    assert [line.partition(" ")[0] for line in manifest.skipped] == [
        f"{path}:{number}:" for number in (2, 3, 31)
    ]
    shown = capsys.readouterr().out
    assert all(f"skipped: {line}" in shown for line in manifest.skipped)


def test_split_without_an_example_is_refused_by_prepare_and_by_all_that_read_it(
    prepared_dir: Path, tmp_path: Path
) -> None:
    raw = copy_of(prepared_dir / "raw", tmp_path)
    path = raw / "valid_data.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for record in lines:
        record["messages"] = record["messages"][:1]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in lines))
    output = ("--output", str(tmp_path / "output"))
    with pytest.raises(InputError, match="valid split must give at least one example, got none"):
        main(["prepare", "--source", "synthetic", "--input", str(raw), *output])
    folder = Path(shutil.copytree(prepared_dir, tmp_path / "emptied"))
    (folder / "valid.jsonl").write_text("")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["valid"]["responses"] = 0
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"valid\.jsonl must hold at least one example, got none"):
        load_prepared(folder).examples("valid")


def test_folder_of_another_format_is_refused_with_the_command_that_makes_it_anew(
    prepared_dir: Path, tmp_path: Path
) -> None:
    folder = copy_of(prepared_dir, tmp_path)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    command = f"python -m trainer.data prepare --source synthetic --output {prepared_dir}"
    assert manifest["command"] == f"{command} --dialogues 30"
    path.write_text(json.dumps({**manifest, "format_version": 4, "more": 1}))
    with pytest.raises(InputError, match=f"format_version 3, got 4.*: {command} --dialogues 30$"):
        load_prepared(folder)
    # A manifest of version 2 has no command and other counts.
    keys = ("source", "num_items", "vocabulary_digest")
    old = {key: manifest[key] for key in keys} | {"format_version": 2, "splits": {}}
    old["options"] = {**manifest["options"], "max_response": 20, "drop_unlinked": True}
    path.write_text(json.dumps(old))
    with pytest.raises(InputError, match="got 2") as caught:
        load_prepared(folder)
    said, _, remedy = str(caught.value).partition("python -m trainer.data ")
    assert "with the --graph, --conceptnet, --plugin and --seed that you gave then: " in said
    shutil.copytree(folder / "raw", tmp_path / "raw")
    main(remedy.split())
    prepared = load_prepared(folder)
    assert (prepared.manifest.options.max_response, prepared.manifest.options.drop_unlinked) == (
        20,
        True,
    )
    shutil.rmtree(folder / "raw")
    path.write_text(json.dumps({**old, "source": "redial"}))
    with pytest.raises(InputError, match=r"prepare --source redial --input DIR --tokenizer "):
        load_prepared(folder)


@pytest.mark.parametrize(
    "record",
    [
        {"format_version": 1},
        {"format_version": 2, "source": "redial", "options": {"no_such_option": 1}},
        {"format_version": 2, "source": "redial", "options": None},
        {"format_version": 2, "options": {}},
        {"format_version": 3},
        {},
    ],
)
def test_manifest_of_another_format_without_what_made_it_is_one_line(
    record: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"must be a manifest of format_version 3") as caught:
        load_prepared(tmp_path)
    assert "\n" not in str(caught.value)


def test_movie_titles_prefer_dialogues_then_the_entity_then_the_id() -> None:
    entities = {"1": "<r/resource/Heat_(1995_film)>", "2": "<r/resource/Alien>", "3": "3"}
    dialogues = [Dialogue("a", (), {"1": "", "2": "Alien (1979)"}), Dialogue("b", (), {"2": "X"})]
    assert movie_titles(entities, dialogues) == {
        "1": "Heat (1995)",
        "2": "Alien (1979)",
        "3": "Movie 3",
    }


@pytest.mark.everything
def test_prepare_of_real_dialogues_gives_known_counts(
    redial_dir: Path, redial_prepared: Path
) -> None:
    prepared = load_prepared(redial_prepared)
    assert prepared.vocabulary.size == 50_257 + 6_924 + 3
    train = prepared.manifest.splits["train"]
    assert (train.dialogues, train.messages) == (2_101, 37_928)
    # Counted by the twin below, which shares no code with the chain.
    for split in ("valid", "test"):
        counts = prepared.manifest.splits[split]
        turns, responses, items = _slow_counts(redial_dir / f"{split}_data.jsonl")
        assert (counts.merged_turns, counts.responses) == (turns, responses)
        assert counts.recommendation_samples == items
    # Counted with NLTK's word tokenizer and an English Punkt model.
    for split, expected in (
        ("train", (5_965, 5_106, 6_675, 13_123)),
        ("valid", (302, 248, 347, 674)),
        ("test", (542, 463, 621, 1_228)),
    ):
        assert dataclasses.astuple(prepared.manifest.splits[split].as_kgsf) == expected
    # Those whose movies all stand past the 30 tokens are no recommendations: 47, 1 and 5.
    splits = prepared.manifest.splits.values()
    assert [it.responses_with_item for it in splits] == [5_922, 301, 537]
    assert [it.oddities.items_past_the_cut for it in splits] == [47, 1, 5]
    assert [it.oddities.repeated_messages for it in splits] == [142, 4, 10]
    assert prepared.manifest.twins == [
        ["77521", "81475"],
        ["99066", "164798"],
        ["106317", "170722"],
    ]
    assert not {"amp", "quot", "gt"} & set(prepared.words.words)
    examples = prepared.examples("train")
    texts = [prepared.vocabulary.decode(example.response_ids.tolist()) for example in examples]
    assert not any(re.search(r"&(quot|amp|gt|lt);|[\r\n]", text) for text in texts)
    for batch_size, world_size, micro in ((32, 1, None), (32, 2, 4), (64, 2, 8), (256, 2, None)):
        assert padding(examples, batch_size, world_size, micro, group="response") < 0.10
        assert padding(examples, batch_size, world_size, micro) < 0.06


def _slow_counts(path: Path) -> tuple[int, int, int]:
    turns = responses = items = 0
    for line in path.read_text().splitlines():
        record = json.loads(line)
        merged: list[list] = []
        for message in record["messages"]:
            if not merged or merged[-1][0] != message["senderWorkerId"]:
                merged.append([message["senderWorkerId"], ""])
            merged[-1][1] += " " + message["text"]
        turns += len(merged)
        for sender, text in merged[1:]:
            if sender == record["respondentWorkerId"] and text.strip():
                responses += 1
                for part in text.split("@")[1:]:
                    number = part[: len(part) - len(part.lstrip("0123456789"))]
                    items += number in record["movieMentions"]
    return turns, responses, items
