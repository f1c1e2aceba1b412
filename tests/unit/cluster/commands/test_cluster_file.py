from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from cluster.commands.cluster_file import DEFAULT_FILE, file_and_rest, read_cluster_file
from trainer.common.errors import InputError

ROOT = Path(__file__).resolve().parents[4]
LOCAL = ROOT / "cluster" / "local.yaml"


def written(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """cluster/local.yaml with other text in some places."""
    text = LOCAL.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_file_of_machines_names_the_head_and_all_others() -> None:
    file = read_cluster_file(LOCAL)
    assert (file.is_local, file.user, file.name) == (True, "ubuntu", "conkd-local")
    assert file.head_address == "192.0.2.10"
    assert file.worker_addresses == tuple(f"192.0.2.{it}" for it in (11, 12, 13, 14))
    assert not file.is_behind_head


def test_file_of_a_cloud_knows_no_address() -> None:
    file = read_cluster_file(ROOT / DEFAULT_FILE)
    assert (file.is_local, file.head_address) == (False, None)


def test_machines_behind_an_outer_address_are_reached_through_it(tmp_path: Path) -> None:
    outer = ("head_ip: 192.0.2.10", "head_ip: 192.0.2.10\n  external_head_ip: 203.0.113.1")
    file = read_cluster_file(written(tmp_path, outer))
    assert (file.head_address, file.is_behind_head) == ("203.0.113.1", True)


def test_copy_on_the_head_leads_to_the_head_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    outer = ("head_ip: 192.0.2.10", "head_ip: 192.0.2.10\n  external_head_ip: 203.0.113.1")
    copy = written(tmp_path, outer).rename(tmp_path / "ray_bootstrap_config.yaml")
    file = read_cluster_file(copy)
    assert (file.is_on_head, file.head_address, file.is_behind_head) == (True, "127.0.0.1", False)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("type: external", "kind: external", "provider.type must be set"),
        ("ssh_user: ubuntu", "user: ubuntu", "auth.ssh_user must be set"),
        ("cluster_name: conkd-local", "name: x", "cluster_name must be a name"),
        ("head_node_type: head", "head_node_type: hat", "head_node_type must be one of"),
        ("192.0.2.12]", "192.0.2.13]", "must be named once"),
        ("provider:", "provider: [", "must be YAML"),
    ],
)
def test_wrong_file_is_one_error_that_names_it(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        read_cluster_file(written(tmp_path, (old, new)))


@pytest.mark.parametrize(
    ("options", "file", "rest"),
    [
        (["dialogue=1", "--cluster", "x.yaml", "--json"], "x.yaml", ["dialogue=1", "--json"]),
        (["--cluster=x.yaml"], "x.yaml", []),
        (["--help"], "own.yaml", ["--help"]),
    ],
)
def test_cluster_option_is_found_among_those_of_another_program(
    options: list[str], file: str, rest: list[str]
) -> None:
    given = argparse.Namespace(file=Path("own.yaml"), options=options)
    assert file_and_rest(given) == (Path(file), rest)


def test_cluster_option_without_a_value_is_refused() -> None:
    with pytest.raises(InputError, match="--cluster must have a value"):
        file_and_rest(argparse.Namespace(file=Path("own.yaml"), options=["--cluster"]))
