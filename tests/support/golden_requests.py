"""Requests as a released version sends them, which every later release's replicas read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protos.teacher_pb2 import FLOAT16, FLOAT32, UINT8, Compression, Description, ScoreRequest
from teacher_server.replica.request_check import RequestCheck, RequestLimits
from trainer.common.errors import InputError
from trainer.data.model_input import ONE_ROW, RANGES, InputLimits, RowRange, SequenceInput
from trainer.teacher_client.answers import fields_of

FOLDER, REQUESTS = "requests", "requests.json"
COLUMNS = ("tokens", "entities", "words")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
# Above all ids and lengths of the files.
MOST = 70_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A file of one request, and what it asks."""

    name: str
    takes: tuple[str, ...]
    """Columns that its teacher takes."""
    inputs: Sequence[SequenceInput]
    compression: Mapping[str, float]
    request_id: int = 7
    traceparent: str = ""

    @property
    def content(self) -> bytes:
        """The request, serialised."""
        request = ScoreRequest(
            request_id=self.request_id,
            compression=Compression(**self.compression),  # type: ignore[arg-type]
            traceparent=self.traceparent.encode("ascii"),
            **fields_of(self.inputs, InputLimits.of(teacher_of(self.takes))),
        )
        return request.SerializeToString(deterministic=True)

    def to_dict(self) -> dict[str, Any]:
        return {
            "file": f"{FOLDER}/{self.name}.request",
            "takes": self.takes,
            "request_id": self.request_id,
            "traceparent": self.traceparent,
            "compression": self.compression,
            "sequences": [_sequence(each) for each in self.inputs],
        }


def cases() -> Iterator[Case]:
    """All requests of this version."""
    alone = _tokens([5, 0, 299], (1, 2)), _tokens([8], (0, 1))
    cut = {"top_k": 64, "values": UINT8}
    yield Case(name="one-range", takes=("tokens",), inputs=alone, compression=cut)
    dialogue = _tokens([*range(20)], (1, 3), (6, 1), (15, 5)), *alone
    yield Case(name="ranges", takes=("tokens",), inputs=dialogue, compression=cut)
    large = _tokens([65_535, 65_536, 69_999], (0, 3))
    yield Case(
        name="whole-rows", takes=("tokens",), inputs=[large], compression={"values": FLOAT32}
    )
    nucleus = {"top_k": 32, "top_p": 0.75, "values": FLOAT16}
    yield Case(
        name="nucleus-traced",
        takes=("tokens",),
        inputs=alone,
        compression=nucleus,
        request_id=(1 << 64) - 1,
        traceparent=TRACE,
    )
    drawn = {"samples": 8, "seed": (1 << 64) - 1, "values": UINT8}
    yield Case(name="drawn", takes=("tokens",), inputs=dialogue, compression=drawn)
    bags = [_bag([3, 1, 4], [1]), _bag([], [5, 9])]
    entities = [dataclasses.replace(bag, words=np.empty(0, np.int32)) for bag in bags]
    yield Case(name="entities", takes=("entities",), inputs=entities, compression=cut)
    yield Case(name="words", takes=("entities", "words"), inputs=bags, compression=cut)
    whole = [
        dataclasses.replace(tokens, entities=bag.entities, words=bag.words)
        for tokens, bag in zip(alone, bags, strict=True)
    ]
    yield Case(name="all-columns", takes=COLUMNS, inputs=whole, compression=cut)


def teacher_of(takes: Sequence[str]) -> Description:
    """A teacher that takes these columns, of any id and length that the files have."""
    return Description(
        kind="dialogue" if "tokens" in takes else "recommendation",
        vocab_size=MOST + 3,
        first_item_id=MOST - 100,
        num_items=100,
        num_entities=MOST,
        num_words=MOST,
        max_tokens=MOST * ("tokens" in takes),
        max_entities=MOST * ("entities" in takes),
        max_words=MOST * ("words" in takes),
        capabilities=[RANGES],
    )


def write_requests(folder: Path) -> None:
    """Write the requests of a version.

    Raises:
        InputError: if the folder has some: what is released never changes.
    """
    path = folder / REQUESTS
    if path.exists():
        raise InputError(f"{folder} must be new, got one with {REQUESTS}: files never change.")
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    found = list(cases())
    for case in found:
        (folder / case.to_dict()["file"]).write_bytes(case.content)
    entries = ",\n".join(json.dumps(case.to_dict()) for case in found)
    path.write_text(f"[\n{entries}\n]\n")


def check_request_file(folder: Path, expected: dict[str, Any]) -> None:
    """Raise unless a replica reads from a file what its entry in requests.json says."""
    message = ScoreRequest.FromString((folder / expected["file"]).read_bytes())
    read = RequestCheck(teacher_of(expected["takes"]), RequestLimits())(message)
    got = {
        "file": expected["file"],
        "takes": expected["takes"],
        "request_id": message.request_id,
        "traceparent": message.traceparent.decode("ascii"),
        "compression": {name.name: value for name, value in message.compression.ListFields()},
        "sequences": [_sequence(each) for each in read.inputs],
    }
    for name, value in expected.items():
        assert got[name] == value, f"{name} must be {value}, got {got[name]}"


def _sequence(each: SequenceInput) -> dict[str, Any]:
    columns = {name: getattr(each, name).tolist() for name in COLUMNS}
    return {"ranges": [list(wanted) for wanted in each.ranges], **columns}


def _tokens(ids: Sequence[int], *ranges: tuple[int, int]) -> SequenceInput:
    wanted = tuple(RowRange(start, length) for start, length in ranges)
    return SequenceInput(ranges=wanted, tokens=np.array(ids, np.int32))


def _bag(entities: Sequence[int], words: Sequence[int]) -> SequenceInput:
    return SequenceInput(
        ranges=ONE_ROW, entities=np.array(entities, np.int32), words=np.array(words, np.int32)
    )
