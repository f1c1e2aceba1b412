"""What connecting to a Ray cluster may end with."""

from __future__ import annotations

import pytest
import ray
from ray._private.utils import check_version_info

from teacher_server.fleet.ray_cluster import connect
from trainer.common.errors import MachineError, UnreachableError


def test_cluster_of_another_ray_or_python_is_one_error_with_both_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**_: object) -> None:
        # Ray's own words.
        known = {"ray_version": "2.9.3", "python_version": "3.10.99"}
        check_version_info(known, "node 10.0.0.1", raise_on_mismatch=True)

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(
        MachineError, match=r"Ray 2\.\d+\.\d+ and .*got Ray 2\.9\.3 and Python 3\.10\.99"
    ):
        connect("auto")


def test_no_cluster_at_auto_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UnreachableError, match="must be reachable at auto, got: Could not find"):
        connect("auto")


def test_other_failure_of_ray_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(RuntimeError, match="a fault"):
        connect("auto")
