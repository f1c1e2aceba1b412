"""What differs between the outputs of two trees, with the first difference of each part.

Everything is compared exactly, except the losses of a served run: a teacher's scores depend on
which requests share a batch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import safetensors

SERVED_TOLERANCE = 1e-5
"""Largest relative difference of a served run's losses."""
# Times, rates, and counts of what happened to fall into a step.
MEASURED = re.compile(r".*_s|seconds|(teacher|cache|wire)_.*")
FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}
LOSSES = ("loss", "nll")

Kind = Literal["corpus", "block", "metric", "export", "weight", "served"]
Entry = Mapping[str, Any]
"""One line of metrics.jsonl."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One part that is not the same in both trees."""

    kind: Kind
    name: str
    """A key of the metrics, a tensor or a file."""
    detail: str
    """The first difference, BASE's value first."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.detail}"


def compare_metrics(base: Sequence[Entry], tree: Sequence[Entry]) -> list[Difference]:
    """Every value that does not depend on time, float by float; one difference per key."""
    found: dict[str, Difference] = {}
    if len(base) != len(tree):
        detail = f"{len(base)} lines against {len(tree)}"
        found["lines"] = Difference(kind="metric", name="lines", detail=detail)
    for left, right in zip(base, tree, strict=False):
        for key in [*left, *(key for key in right if key not in left)]:
            if key in found or MEASURED.fullmatch(key):
                continue
            # repr: tells 1 from 1.0 and 0.0 from -0.0, and has all digits of a float.
            values = [repr(it[key]) if key in it else "absent" for it in (left, right)]
            if values[0] != values[1]:
                where = left.get("event") or f"step {left.get('step')}"
                detail = f"first at {where}: {values[0]} against {values[1]}"
                found[key] = Difference(kind="metric", name=key, detail=detail)
    return list(found.values())


def compare_files(
    kind: Kind, base: Mapping[str, bytes], tree: Mapping[str, bytes]
) -> list[Difference]:
    """Files by name, byte by byte; those of safetensors by tensor as well."""
    differences = []
    for name in sorted({*base, *tree}):
        if name not in base or name not in tree:
            detail = "only in the tree" if name in tree else "only in BASE"
            differences.append(Difference(kind=kind, name=name, detail=detail))
        elif base[name] != tree[name]:
            is_weights = name.endswith(".safetensors")
            inside = compare_tensors(base[name], tree[name]) if is_weights else []
            detail = _first_byte(base[name], tree[name])
            differences += inside or [Difference(kind=kind, name=name, detail=detail)]
    return differences


def compare_tensors(base: bytes, tree: bytes) -> list[Difference]:
    """The tensors of two safetensors files: names, dtypes, shapes and bits."""
    lefts, rights = (dict(safetensors.deserialize(file)) for file in (base, tree))
    differences = []
    for name in sorted({*lefts, *rights}):
        if name not in lefts or name not in rights:
            detail = "only in the tree" if name in rights else "only in BASE"
        else:
            detail = _tensor_detail(lefts[name], rights[name])
        if detail:
            differences.append(Difference(kind="weight", name=name, detail=detail))
    return differences


def _tensor_detail(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    for key in ("dtype", "shape"):
        if left[key] != right[key]:
            return f"{key} {left[key]} against {right[key]}"
    if left["data"] == right["data"]:
        return ""
    num_elements = math.prod(left["shape"])
    itemsize = len(left["data"]) // num_elements
    bits = [np.frombuffer(it["data"], dtype=f"<u{itemsize}") for it in (left, right)]
    indices = np.flatnonzero(bits[0] != bits[1])
    where = [int(it) for it in np.unravel_index(indices[0], left["shape"])]
    values = [_element(it[indices[:1]], left["dtype"]) for it in bits]
    count = f"{len(indices):,} of {num_elements:,} elements differ"
    return f"first at {where}: {values[0]} against {values[1]}; {count}"


def _element(bits_1: np.ndarray, dtype: str) -> str:
    text = f"0x{int(bits_1[0]):0{2 * bits_1.itemsize}x}"
    # str: a float32 would be formatted with the digits of a float64.
    return f"{bits_1.view(FLOATS[dtype])[0]!s} ({text})" if dtype in FLOATS else text


def _first_byte(base: bytes, tree: bytes) -> str:
    pairs = enumerate(zip(base, tree, strict=False))
    first = next((at for at, (left, right) in pairs if left != right), min(len(base), len(tree)))
    return f"first at byte {first}, of {len(base):,} against {len(tree):,}"


def largest_deviation(cached: Sequence[Entry], served: Sequence[Entry]) -> float:
    """Largest relative difference of a loss at the same step; infinite if steps or keys differ."""
    left, right = _losses(cached), _losses(served)
    if left.keys() != right.keys():
        return math.inf
    return max((abs(right[at] - left[at]) / abs(left[at]) for at in left), default=math.inf)


def _losses(entries: Sequence[Entry]) -> dict[tuple[int, str], float]:
    steps = [it for it in entries if "event" not in it]
    return {(it["step"], key): float(it[key]) for it in steps for key in LOSSES if key in it}


def compare_served(cached: Sequence[Entry], served: Sequence[Entry]) -> list[Difference]:
    """A served run's losses against the cached run's."""
    deviation = largest_deviation(cached, served)
    # Written so that NaN fails too.
    if deviation <= SERVED_TOLERANCE:
        return []
    detail = f"relative difference {deviation:.1e}, at most {SERVED_TOLERANCE:g} is rounding"
    return [Difference(kind="served", name="losses", detail=detail)]
