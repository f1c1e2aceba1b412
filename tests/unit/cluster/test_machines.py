"""Machines of one's own as nodes of Ray's launcher; nothing is started, nothing is asked for."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler.tags import (
    NODE_KIND_HEAD,
    NODE_KIND_WORKER,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
)

from cluster.machines import check, start
from cluster.machines.addresses import is_of_machines, workers_of
from cluster.machines.check import (
    Machine,
    check_machines,
    faults_of,
    read_look,
    shared_folder,
)
from cluster.machines.provider import Machines
from cluster.machines.start import main, settings_of
from trainer.common.errors import InputError, MachineError

HEAD = "192.0.2.10"
WORKER = {TAG_RAY_NODE_KIND: NODE_KIND_WORKER}
TEACHERS = {"addresses": ["192.0.2.11", "192.0.2.12"]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def config(**addresses: Any) -> dict[str, Any]:
    types = {name: {"node_config": {"addresses": it}} for name, it in addresses.items()}
    return {
        "provider": {"type": "external", "head_ip": HEAD},
        "head_node_type": "head",
        "available_node_types": {"head": {"node_config": {}}, **types},
        "auth": {},
    }


def machines(name: str = "conkd") -> Machines:
    return Machines({"head_ip": HEAD}, name)


def test_the_head_is_always_there_and_needs_no_record() -> None:
    assert machines().non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_HEAD}) == [HEAD]
    assert machines().non_terminated_nodes(WORKER) == []
    assert machines().is_running(HEAD)


def test_the_launcher_takes_the_head_for_what_the_file_says() -> None:
    bootstrapped = Machines.bootstrap_config(config(teacher=["192.0.2.11"]))
    tags = Machines(bootstrapped["provider"], "conkd").node_tags(HEAD)
    assert tags["ray-user-node-type"] == "head"
    # Of an empty node_config and no keys: what the launcher computes anew each time.
    assert tags["ray-launch-config"] == bootstrapped["provider"]["head_launch_hash"] != ""


def test_launched_machines_are_of_the_list_and_each_is_launched_once() -> None:
    provider = machines()
    provider.create_node(TEACHERS, WORKER, 1)
    provider.create_node(TEACHERS, WORKER, 1)
    nodes = provider.non_terminated_nodes(WORKER)
    assert [provider.internal_ip(it) for it in nodes] == TEACHERS["addresses"]
    with pytest.raises(ValueError, match="1 machines must be free"):
        provider.create_node(TEACHERS, WORKER, 1)


def test_a_machine_that_was_given_up_is_launched_again_as_another_node() -> None:
    provider = machines()
    lost, _ = provider.create_node(TEACHERS, WORKER, 2)
    provider.terminate_node(lost)
    assert provider.is_terminated(lost)
    # The thread that was setting it up finishes later.
    provider.set_node_tags(lost, {TAG_RAY_NODE_STATUS: "up-to-date"})
    assert provider.node_tags(lost) == {}
    (again,) = provider.create_node(TEACHERS, WORKER, 1)
    assert again != lost
    assert provider.internal_ip(again) == provider.external_ip(lost) == "192.0.2.11"
    assert provider.is_terminated(lost)


def test_an_autoscaler_that_is_started_again_goes_on_with_the_launched_machines() -> None:
    launched = list(machines().create_node(TEACHERS, WORKER, 2))
    machines().set_node_tags(launched[1], {TAG_RAY_NODE_STATUS: "up-to-date"})
    marked = {**WORKER, TAG_RAY_NODE_STATUS: "up-to-date"}
    assert machines().non_terminated_nodes(WORKER) == launched
    assert machines().non_terminated_nodes(marked) == launched[1:]
    assert machines("another").non_terminated_nodes(WORKER) == []


@pytest.mark.parametrize(
    ("addresses", "text"),
    [
        ({"teacher": None}, "teacher.node_config.addresses must be a list"),
        ({"teacher": ["192.0.2.11"], "student": ["192.0.2.11"]}, "named once"),
        ({"teacher": [HEAD]}, "named once"),
    ],
)
def test_a_file_without_clear_addresses_is_refused(addresses: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        workers_of(config(**addresses))


def test_a_file_of_another_provider_is_not_of_machines() -> None:
    assert not is_of_machines({"provider": {"type": "aws"}})
    assert not is_of_machines({"provider": {"type": "external", "module": "other.Provider"}})


def test_settings_are_the_command_and_rays_variables_without_its_token() -> None:
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret", "TERM": "xterm"}
    settings = json.loads(settings_of(["ray", "start", "--head"], environment))
    assert settings["command"] == ["ray", "start", "--head"]
    assert settings["variables"] == {"RAY_AUTH_MODE": "token"}


COMMAND = ["ray", "start", "--address=192.0.2.10:6379"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands of Ray that were run, all of which succeed."""
    run: list[str] = []

    def succeed(argv: tuple[str | Path, ...], **_: object) -> subprocess.CompletedProcess[str]:
        run.append(" ".join(map(str, argv[1:])))
        return subprocess.CompletedProcess(argv, 0)

    monkeypatch.setattr(start.subprocess, "run", succeed)
    return run


@pytest.mark.parametrize("is_running", [False, True])
def test_ray_is_started_once_and_again_where_it_is_gone(
    is_running: bool, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "runs_here", lambda _: False)
    main(COMMAND)
    assert calls == ["stop", "start --address=192.0.2.10:6379"]
    monkeypatch.setattr(start, "runs_here", lambda _: is_running)
    main(COMMAND)
    assert len(calls) == (2 if is_running else 4)


def test_ray_is_started_again_with_other_settings(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "runs_here", lambda _: True)
    main(COMMAND)
    monkeypatch.setenv("RAY_health_check_period_ms", "1")
    main(COMMAND)
    assert calls == ["stop", "start --address=192.0.2.10:6379"] * 2


def test_a_machine_without_a_raylet_runs_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start.psutil, "process_iter", lambda _: [])
    assert not start.runs_here({"RAY_CLOUD_INSTANCE_ID": HEAD})
    with pytest.raises(InputError, match="RAY_CLOUD_INSTANCE_ID must be set"):
        start.runs_here({})


def test_only_ray_is_started() -> None:
    with pytest.raises(InputError, match="must begin with `ray start`"):
        main(["rm"])


LOOK = Machine(python="3.11", processor="x86_64", folder="7", free_kib=1 << 21, writable=True)
OUTPUT = "Welcome\npython 3.11\nprocessor x86_64\nfolder 7\nfree 2097152\nwritable yes\n"
FULL = {**config(teacher=["192.0.2.11"], student=["192.0.2.13"])}


def test_machines_that_are_ready_and_alike_pass() -> None:
    asked: list[str] = []
    check_machines(FULL, lambda address, _: asked.append(address) or OUTPUT)
    assert sorted(asked) == [HEAD, "192.0.2.11", "192.0.2.13"]
    assert read_look(OUTPUT) == LOOK


def test_each_fault_of_a_machine_is_a_line() -> None:
    def run(address: str, probe: str) -> str:
        if address == HEAD:
            raise MachineError("Connection refused")
        return OUTPUT if address == "192.0.2.11" else "python 3.9\nprocessor x86_64\nabsent make\n"

    with pytest.raises(InputError, match="ready and alike, got 5 faults") as caught:
        check_machines(FULL, run)
    assert caught.value.details == (
        f"{HEAD} must answer by ssh, got: Connection refused",
        "192.0.2.13: Python must be 3.10 or newer, got 3.9",
        "192.0.2.13: make, rsync, openssl, c++ must be installed, got no make",
        "192.0.2.13: /shared must be the shared folder, got no folder. Mount it there",
        "Python must be the same on all machines, got 192.0.2.11: 3.11, 192.0.2.13: 3.9",
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"python": "3.12"}, "Python must be the same on all machines, got a: 3.11, b: 3.12"),
        ({"processor": "aarch64"}, "processor must be the same on all machines"),
        ({"folder": "8"}, "/data must be the same on all machines, got a: 7, b: 8"),
        ({"writable": False}, "b: /data must be a folder that can be written"),
        ({"free_kib": 2048}, "b: /data must have 1 GiB free, got 2 MiB"),
    ],
)
def test_machines_that_differ_are_named(change: dict[str, Any], text: str) -> None:
    (fault,) = faults_of({"a": LOOK, "b": replace(LOOK, **change)}, shared="/data")
    assert fault.startswith(text)


def test_the_shared_folder_is_the_one_that_the_file_sets() -> None:
    assert shared_folder({"setup_commands": ["export CONKD_SHARED=/mnt/nfs PATH=x"]}) == "/mnt/nfs"
    assert shared_folder({}) == "/shared"


def test_the_probe_is_a_program_that_a_shell_runs(tmp_path: Path) -> None:
    told = check.PROBE.format(shared=tmp_path)
    assert "{" not in told
    assert f"shared={tmp_path}\n" in told
