"""What hosts of a lab are given: files and limits; nothing is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.netns.environment import write_changed_files
from cluster.netns.network import Rate, discipline
from cluster.netns.ssh import hosts_file, passwd_file
from trainer.common.errors import InputError

ADDRESSES = {"head": "10.77.0.2", "teacher1": "10.77.0.3"}


def test_a_host_has_its_own_name_on_loopback_as_debian_does_and_knows_the_others() -> None:
    lines = hosts_file("head", ADDRESSES).splitlines()
    assert lines == ["127.0.0.1\tlocalhost", "127.0.1.1\thead", "10.77.0.3\tteacher1"]


def test_root_of_a_host_lives_elsewhere_and_other_users_stay() -> None:
    machine = "root:x:0:0:root:/root:/bin/sh\nsshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n"
    root, sshd = passwd_file(machine).splitlines()
    assert root.startswith("root:x:0:0:root:/user:/")
    assert sshd == machine.splitlines()[1]


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (Rate(), ""),
        # Of 1 Gbit/s a bucket holds 5 ms; of less at least two packets of 64 KiB.
        (Rate(mbit=1000.0), "tbf rate 1000.0mbit burst 625000 latency 100ms"),
        (Rate(mbit=1.0), "tbf rate 1.0mbit burst 131072 latency 100ms"),
        (Rate(mbit=10.0, delay_ms=2.0), "netem rate 10.0mbit delay 2.0ms limit 100000"),
        (Rate(delay_ms=2.0), "netem delay 2.0ms limit 100000"),
    ],
)
def test_a_limit_is_a_queueing_discipline(rate: Rate, text: str) -> None:
    assert " ".join(discipline(rate)) == text


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="rate_mbit must be over 0, or None, got 0"):
        Rate(mbit=0)


def test_programs_and_sources_of_the_environment_are_those_of_the_host(tmp_path: Path) -> None:
    venv, output = tmp_path / "venv", tmp_path / "changed"
    packages = venv / "lib" / "python3.11" / "site-packages"
    (venv / "bin" / "__pycache__").mkdir(parents=True)
    (packages / "conkd-0.1.0.dist-info").mkdir(parents=True)
    record = {"url": "file:///checkout", "dir_info": {"editable": True}}
    (packages / "conkd-0.1.0.dist-info" / "direct_url.json").write_text(json.dumps(record))
    (packages / "__editable___conkd_finder.py").write_text("MAPPING = {'cluster': '/checkout/c'}")
    (venv / "bin" / "ray").write_text("#!/checkout/.venv/bin/python3\nimport ray\n")
    (venv / "bin" / "tool").write_text("#!/bin/sh\n/checkout\n")
    (venv / "bin" / "binary").write_bytes(b"\x7fELF\xff")
    write_changed_files(venv, output)
    assert (output / "bin" / "ray").read_text() == "#!/user/conkd/.venv/bin/python3\nimport ray\n"
    assert (output / "bin" / "tool").read_text() == "#!/bin/sh\n/checkout\n"
    assert (output / "bin" / "binary").read_bytes() == b"\x7fELF\xff"
    (finder,) = (output / "lib" / "python3.11" / "site-packages").iterdir()
    assert finder.read_text() == "MAPPING = {'cluster': '/user/conkd/c'}"
    assert not (output / ".installed").exists()


def test_an_environment_without_our_sources_is_refused(tmp_path: Path) -> None:
    (tmp_path / "venv" / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (tmp_path / "venv" / "bin").mkdir()
    with pytest.raises(InputError, match="must have conkd installed from its sources"):
        write_changed_files(tmp_path / "venv", tmp_path / "changed")
