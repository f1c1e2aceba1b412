"""The options of `python -m teacher_server`."""

from __future__ import annotations

import pytest

from teacher_server.fleet.options import REMOVED, parse

NAMES: list[str] = ["up", "scale", "status", "down", "certificates", "keep"]
COMMANDS = dict.fromkeys(NAMES, print)


@pytest.mark.parametrize("name", REMOVED)
def test_removed_option_is_refused_with_its_replacement(name: str) -> None:
    for argv in (["up", name, "120"], ["up", f"{name}=120"]):
        with pytest.raises(ValueError, match=f"got {name}. ") as refused:
            parse(argv, COMMANDS)
        assert str(refused.value).endswith(REMOVED[name])


def test_cluster_cpus_bound_the_local_cluster() -> None:
    assert parse(["up", "--cluster-cpus", "8"], COMMANDS).cluster_cpus == 8
    with pytest.raises(ValueError, match="--cluster-cpus must be in"):
        parse(["up", "--cluster-cpus", "0"], COMMANDS)
