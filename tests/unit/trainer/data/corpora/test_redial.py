from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from rich.progress import Progress

from trainer.data.corpora.redial import read_splits
from trainer.data.dialogue import Dialogue
from trainer.data.splits import LoadedSplits, load_splits


def lines(*ids: int) -> str:
    return "".join(
        json.dumps(
            {
                "conversationId": number,
                "movieMentions": [],
                "messages": [{"text": "hello", "senderWorkerId": 1}],
                "initiatorWorkerId": 1,
                "respondentWorkerId": 2,
            }
        )
        + "\n"
        for number in ids
    )


def read(source: Path, seed: int = 0) -> LoadedSplits:
    with Progress(disable=True) as progress:
        return load_splits(read_splits(source), movie_ids=set(), valid_seed=seed, progress=progress)


def write_zip(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(f"redial/{name}_data.jsonl", text)
    return path


def ids(dialogues: list[Dialogue]) -> list[str]:
    return [dialogue.dialogue_id for dialogue in dialogues]


def test_read_splits_of_a_zip_equals_that_of_its_folder(tmp_path: Path) -> None:
    for split, text in (("train", lines(1, 2)), ("valid", lines(3)), ("test", lines(4))):
        (tmp_path / f"{split}_data.jsonl").write_text(text)
    members = {"train": lines(1, 2), "valid": lines(3), "test": lines(4)}
    assert read(write_zip(tmp_path / "redial.zip", **members)) == read(tmp_path)
    assert read(tmp_path).drawn_valid_ids == ()


def test_read_splits_without_valid_draws_the_same_dialogues_for_the_same_seed(
    tmp_path: Path,
) -> None:
    path = write_zip(tmp_path / "redial.zip", train=lines(*range(100)), test=lines(500))
    raw = read(path)
    train, valid = raw.dialogues["train"], raw.dialogues["valid"]
    assert len(valid) == 9
    assert sorted(ids(train) + ids(valid), key=int) == [str(i) for i in range(100)]
    assert list(raw.drawn_valid_ids) == ids(valid)
    assert read(path) == raw
    assert read(path, seed=1).drawn_valid_ids != raw.drawn_valid_ids


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"train": lines(1, 2), "valid": lines(1), "test": lines(4)}, "in train and valid"),
        (
            {"train": lines(1, 1), "test": lines(4)},
            "1 must be in one split once, got it in train and",
        ),
        ({"train": lines(1), "test": lines(4)}, "at least two dialogues to draw valid from"),
        ({"train": "{!", "test": lines(4)}, r"redial\.zip/redial/train_data\.jsonl:1: the line"),
    ],
)
def test_read_splits_with_bad_content_says_where(
    tmp_path: Path, members: dict[str, str], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        read(write_zip(tmp_path / "redial.zip", **members))


def test_read_splits_of_a_torn_zip_or_no_source_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "redial.zip", train=lines(*range(50)), test=lines(500))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"--input must be the folder .* fetch the zip again"):
        read(path)
    damaged = bytearray(whole)
    damaged[80:200] = bytes(120)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="must be a whole zip"):
        read(path)
    with pytest.raises(FileNotFoundError, match="--input must be the folder or zip"):
        read(tmp_path / "nowhere")
    write_zip(path, train=lines(1, 2))
    with pytest.raises(FileNotFoundError, match=r"test_data\.jsonl must be a file of"):
        read(path)


def test_valid_or_test_that_is_still_compressed_is_named_with_the_command(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}_data.jsonl").write_text(lines(1 if split == "train" else 2))
    (tmp_path / "valid_data.jsonl.gz").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"got valid_data\.jsonl\.gz alone.*gunzip -k "):
        read_splits(tmp_path)
