"""Files in the formats of a released version, which every later release reads: tests/golden/.

python -m tests.support.golden             # a new version's folder; one that is there stays
python -m tests.support.golden --contract  # contract.txt alone, from protos/teacher.proto
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from protos import codec, teacher_pb2
from protos.codec import FLOAT16, FLOAT32, UINT8, TargetRows
from protos.target_rows import COLUMNS, ITEM_MASS
from protos.version import WIRE_VERSION
from tests.support.blocks import Part, join, take_apart
from tests.support.contract import broken_promises, contract_of
from tests.support.golden_requests import write_requests
from tests.support.random_rows import rows_of
from trainer.common.errors import InputError
from trainer.target_cache.block import pack, unpack

FOLDER = Path(__file__).resolve().parents[1] / "golden"
EXPECTED, CONTRACT = "expected.json", "contract.txt"
KEY = bytes(range(40))
VOCAB = 300
DTYPES = dict(zip(COLUMNS, (np.int32, np.int32, np.float32, np.float32), strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A file of bytes, and what it holds."""

    file: str
    """Path below the version's folder; the ending says what it is."""
    content: bytes
    values: int
    rows: TargetRows

    def to_dict(self) -> dict[str, Any]:
        arrays = {name: array.tolist() for name, array in self.rows.arrays.items()}
        columns = {name: arrays.pop(name) for name in COLUMNS}
        return {
            "file": self.file,
            "values": self.values,
            "vocab_size": self.rows.vocab_size,
            **columns,
            "masses": arrays,
        }


def cases() -> Iterator[Case]:
    """All files of this version."""
    cut, longer = rows_of([8, 3, 0, 5], 1, VOCAB), rows_of([12] * 9, 2, VOCAB)
    for name, values in (("uint8", UINT8), ("float16", FLOAT16), ("float32", FLOAT32)):
        yield _block(f"cut-{name}", cut, values)
        yield _block(f"whole-{name}", whole(), values)
        yield _block(f"drawn-{name}", drawn(), values)
    yield _block("one-row", rows_of([8], 3, VOCAB), UINT8)
    yield _block("many-rows", longer, UINT8)
    yield _block("no-rows", rows_of([], 0, VOCAB), UINT8)
    # Counts of four bytes, and steps of the table and ranks that need escapes.
    yield _block("large-vocabulary", rows_of([2, 300, 2], 4, 70_000), UINT8)
    yield _block("no-item-mass", dataclasses.replace(cut, masses={}), UINT8)
    cast = np.array([0.0, 0.5, 1.0, 0.25], np.float32)
    yield _block("two-masses", dataclasses.replace(cut, masses={**cut.masses, "cast_2": cast}), 3)
    yield with_unknown_section(_block("unknown-section", cut, UINT8))
    for name, values in (("uint8", UINT8), ("float32", FLOAT32)):
        rows = over_the_wire(cut, values)
        content = pack(KEY, rows, values)
        yield Case(file=f"cache/cut-{name}.value", content=content, values=values, rows=rows)


def whole() -> TargetRows:
    """Two rows of all 16 ids: nothing is dropped."""
    rows = rows_of([15, 15], 5, 16)
    probs_RV = np.full((2, 16), 1 / 32)
    probs_RV[0, 3] = probs_RV[1, 9] = 1 - 15 / 32
    return TargetRows(
        counts_R=np.array([16, 16], np.int32),
        ids_E=np.tile(np.arange(16, dtype=np.int32), 2),
        log_probs_E=np.log(probs_RV).ravel().astype(np.float32),
        tail_R=np.zeros(2, np.float32),
        masses=rows.masses,
        vocab_size=16,
    )


def drawn() -> TargetRows:
    """Three rows of eight draws: weights are eighths, and there is no tail."""
    eighths = np.array([1, 2, 5, 8, 4, 4])
    return TargetRows(
        counts_R=np.array([3, 1, 2], np.int32),
        ids_E=np.array([0, 17, 299, 5, 17, 200], np.int32),
        log_probs_E=np.log(eighths / 8).astype(np.float32),
        tail_R=np.zeros(3, np.float32),
        masses={ITEM_MASS: np.array([0.125, 0.0, 1.0], np.float32)},
        vocab_size=VOCAB,
    )


def over_the_wire(rows: TargetRows, values: int) -> TargetRows:
    """The rows as they are decoded."""
    block = codec.encode(rows, values)
    return codec.decode(block, num_rows=rows.num_rows, vocab_size=rows.vocab_size)


def with_unknown_section(case: Case) -> Case:
    """The same with an optional section that no reader knows, between those that it does."""
    parts, rows = take_apart(case.content), case.rows
    unknown = Part(60_000, 0, b"of a later release")
    content = join(rows.vocab_size, rows.num_rows, [*parts[:2], unknown, *parts[2:]])
    return dataclasses.replace(case, content=content)


def _block(name: str, rows: TargetRows, values: int) -> Case:
    file, content = f"blocks/{name}.block", codec.encode(rows, values)
    return Case(file=file, content=content, values=values, rows=over_the_wire(rows, values))


def check_file(folder: Path, expected: dict[str, Any]) -> None:
    """Raise unless a file of a version's folder holds the rows of its entry in expected.json."""
    content = (folder / expected["file"]).read_bytes()
    num_rows, vocab_size = len(expected["counts_R"]), expected["vocab_size"]
    if expected["file"].endswith(".value"):
        rows = unpack(KEY, content, vocab_size=vocab_size, num_rows=num_rows)
    else:
        rows = codec.decode(
            content, num_rows=num_rows, vocab_size=vocab_size, values=expected["values"]
        )
    for name, dtype in DTYPES.items():
        wanted = np.array(expected[name], dtype)
        # The logarithm of 8-bit values differs between machines in its last bit.
        error = 1e-6 if (name, expected["values"]) == ("log_probs_E", UINT8) else 0.0
        np.testing.assert_allclose(rows.arrays[name], wanted, rtol=error, atol=error, err_msg=name)
    masses = {name: mass_R.tolist() for name, mass_R in rows.masses.items()}
    assert masses == expected["masses"], f"masses must be {expected['masses']}, got {masses}"


def write_version(folder: Path) -> None:
    """Write all files of this version.

    Raises:
        InputError: if the folder has some: what is released never changes.
    """
    if (folder / EXPECTED).exists():
        raise InputError(
            f"{folder} must be new, got one with {EXPECTED}: files of a version never change. "
            "For other bytes raise WIRE_VERSION in protos/version.py."
        )
    found = list(cases())
    for case in found:
        path = folder / case.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(case.content)
    entries = ",\n".join(json.dumps(case.to_dict()) for case in found)
    (folder / EXPECTED).write_text(f"[\n{entries}\n]\n")
    write_requests(folder)


def write_contract(folder: Path) -> None:
    """Write contract.txt; InputError if it breaks a promise of the one before."""
    path, now = folder / CONTRACT, contract_of(teacher_pb2.DESCRIPTOR)
    released = path.read_text().splitlines() if path.exists() else []
    if broken := broken_promises(released, now):
        raise InputError(
            f"{path} must keep its promises, got {'; '.join(broken)}. Raise WIRE_VERSION in "
            "protos/version.py, or delete the file while its version is not released."
        )
    path.write_text("\n".join(now) + "\n")


def main(argv: list[str]) -> None:
    """Write a version's folder, or its contract alone."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.golden", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--contract", action="store_true", help="contract.txt alone")
    folder = FOLDER / f"v{WIRE_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    if not parser.parse_args(argv).contract:
        write_version(folder)
    write_contract(folder)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except InputError as error:
        sys.exit(f"error: {error}")
