"""The example of docs/wire.md is a block as it is written and read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from protos import codec
from protos.target_rows import ITEM_MASS, TargetRows
from tests.support.blocks import decode_slowly

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "wire.md").read_text()
# A line of the example: pairs of hexadecimal digits, then, after three spaces, what they say.
LINE = re.compile(r"^    ((?:[0-9a-f]{2} {1,2})+) {2,}\S", re.MULTILINE)


def example() -> bytes:
    return bytes.fromhex("".join(digits for digits in LINE.findall(DOCUMENT)))


def test_example_is_what_an_encoder_writes() -> None:
    rows = TargetRows(
        counts_R=np.array([3], np.int32),
        ids_E=np.array([7, 20, 321], np.int32),
        log_probs_E=np.log(np.array([1 / 2, 1 / 4, 1 / 8])).astype(np.float32),
        tail_R=np.array([1 / 8], np.float32),
        masses={ITEM_MASS: np.array([1 / 4], np.float32)},
        vocab_size=1000,
    )
    block = codec.encode(rows, codec.UINT8)
    assert block.hex(" ") == example().hex(" ")
    assert f"{len(block)} bytes, all uncompressed" in DOCUMENT


def test_example_is_read_field_by_field_as_it_says() -> None:
    rows = decode_slowly(example())
    assert rows["ids"] == [[7, 20, 321]]
    assert np.exp(rows["log_probs"][0]) == pytest.approx([1 / 2, 1 / 4, 1 / 8], abs=0.002)
    assert (rows["tail"], rows["masses"]) == ([1 / 8], {"item_mass": [1 / 4]})
