"""Every command for AWS in the documents, run line by line against an AWS on loopback."""

from __future__ import annotations

import io
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private import commands

from cluster import __main__ as command
from cluster.commands import up
from tests.support.fake_aws import FILE, FakeAws, gpu_config

ROOT = FILE.parents[1]
PAGES = ("cluster_aws.md", "cluster.md")


def lines_of(page: str) -> list[str]:
    """The commands of the blocks that are marked `sh aws`, in their order."""
    text = (ROOT / "docs" / page).read_text()
    blocks = re.findall(r"^```sh aws\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


class BeforeLoginError(Exception):
    """Raised where Ray would log in to the head."""


def stop(**_: Any) -> None:
    raise BeforeLoginError


def ray_here(argv: list[Any], env: dict[str, str]) -> None:
    """What `ray up` does, in this process: its provider must meet the AWS of the test."""
    _, *options, file = map(str, argv)
    assert options == ["up", "--yes"]
    assert env["RAY_UP_enable_autoscaler_v2"] == "1"
    commands.create_or_update_cluster(
        file,
        override_min_workers=None,
        override_max_workers=None,
        no_restart=False,
        restart_only=False,
        yes=True,
        no_config_cache=True,
    )


def run(line: str) -> int:
    """The exit status of one line, typed by somebody who agrees to plans."""
    name, *arguments = shlex.split(line, comments=True)
    assert (name, arguments[:2]) == ("python", ["-m", "cluster"])
    with pytest.raises(SystemExit) as end:
        command.main(arguments[2:])
    return int(str(end.value.code))


@pytest.mark.parametrize(
    "page",
    [pytest.param(it, marks=() if it == PAGES[0] else pytest.mark.everything) for it in PAGES],
)
def test_commands_for_aws_work_in_the_order_of_the_page(
    empty: FakeAws, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    lines = lines_of(page)
    assert any(" setup " in it for it in lines)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n" * len(lines)))

    monkeypatch.setattr(commands, "NodeUpdaterThread", stop)
    monkeypatch.setattr(up.subprocess, "run", ray_here)
    for line in lines:
        if re.search(r" up (?!.*--dry-run)", line):
            # All but the login: the machine is launched, and nobody is at its address.
            with pytest.raises(BeforeLoginError):
                run(line)
            assert empty.asked("RunInstances")
            end_machines(empty)
        else:
            assert run(line) == 0, line
    assert empty.clients.iam.list_instance_profiles()["InstanceProfiles"] == []


def end_machines(aws: FakeAws) -> None:
    found = aws.clients.ec2.describe_instances()["Reservations"]
    names = [it["InstanceId"] for reservation in found for it in reservation["Instances"]]
    aws.clients.ec2.terminate_instances(InstanceIds=names)


def test_table_of_types_is_that_of_the_file() -> None:
    text = (ROOT / "docs" / "cluster_aws.md").read_text()
    for name, node_type in gpu_config()["available_node_types"].items():
        row = next(
            line for line in text.splitlines() if line.startswith("|") and f"`{name}`" in line
        )
        assert node_type["node_config"]["InstanceType"] in row
        assert ("spot" in row) == ("InstanceMarketOptions" in node_type["node_config"])
    assert f"At most {gpu_config()['max_workers']} workers" in text
    assert Path(FILE).name in text
