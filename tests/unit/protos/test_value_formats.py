"""The table of value formats, and what each of them puts into a block."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from protos import codec, teacher_pb2
from protos.target_rows import ITEM_MASS, TargetRows
from protos.value_formats import BY_NUMBER, FORMATS
from tests.support.blocks import take_apart
from trainer.config.distill import DistillConfig

# SHA-256 of the plain sections: compressed bytes depend on the release of zstd.
GOLDEN = {
    "uint8": "1141e1be0cb6ecaa51b2b460ed9d0e18",
    "float16": "3f933aed7e7961ea42082e073e82234a",
    "float32": "474049153aa981cf538c13abff765405",
}


def rows() -> TargetRows:
    """Three rows of 0, 2 and 3 entries whose probabilities are multiples of 1/8."""
    probs_E = np.array([1, 6, 4, 2, 1]) / 8
    return TargetRows(
        counts_R=np.array([0, 2, 3], np.int32),
        ids_E=np.array([5, 299, 0, 5, 17], np.int32),
        log_probs_E=np.log(probs_E).astype(np.float32),
        tail_R=np.array([1.0, 0.125, 0.125], np.float32),
        masses={ITEM_MASS: np.array([0.5, 0.75, 0.0], np.float32)},
        vocab_size=300,
    )


def plain(block: bytes) -> bytes:
    """The sections' ids and plain bodies, end to end."""
    return b"".join(bytes([part.number]) + part.plain() for part in take_apart(block))


def test_formats_are_those_of_the_proto() -> None:
    names = {name.lower(): number for name, number in teacher_pb2.ValueFormat.items() if number}
    assert {name: each.number for name, each in FORMATS.items()} == names
    assert set(BY_NUMBER) == {codec.FLOAT32, codec.FLOAT16, codec.UINT8}


@pytest.mark.parametrize("name", FORMATS)
def test_block_holds_the_same_bytes_as_ever(name: str) -> None:
    block = codec.encode(rows(), FORMATS[name].number)
    assert hashlib.sha256(plain(block)).hexdigest()[:32] == GOLDEN[name]


@pytest.mark.parametrize("name", FORMATS)
def test_config_names_a_format(name: str) -> None:
    assert DistillConfig(values=name).value_format == FORMATS[name].number


def test_config_with_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"distill\.values must be one of uint8, float16, float32"):
        DistillConfig(values="int4")
