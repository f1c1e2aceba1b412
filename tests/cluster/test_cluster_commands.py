"""python -m cluster on hosts of a lab, as far as it needs no Ray: copies, and what `down` leaves.

test_cluster.py has the whole story.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from cluster.netns.lab import PROFILE, Lab
from tests.support.labs import need_lab
from tests.support.student_runs import ROOT

pytestmark = pytest.mark.timeout(900)
LAPTOP, HEAD, WORKER = "laptop", "head", "worker"
FILE = "mine.yaml"
LIMIT_S = 120.0
BIG_BYTES = 16 << 20
SOME_BYTES = 2 << 20
RATE_MBIT = 20.0
EXIT_ERROR = 2
# Of the environment, and ends only by a signal that cannot be caught.
STUBBORN = """
import signal, sys, time, numpy
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(1000)
"""
# What the cluster's file adds to ~/.bashrc, beside lines of the user's.
LINE = "export RAY_AUTH_MODE=token CONKD_SHARED=/shared PATH=$HOME/conkd/.venv/bin:$PATH\n"
SECRETS = ("conkd-tls/token", "conkd-tls-server/server.key", ".ray/auth_token")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def lab(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_lab()
    hosts = (LAPTOP, HEAD, WORKER)
    with Lab(tmp_path_factory.mktemp("lab"), hosts=hosts, shared=shared) as lab:
        config = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text())
        config["provider"]["head_ip"] = lab[HEAD].address
        config["auth"]["ssh_user"] = "root"
        types = config["available_node_types"]
        types["teacher"]["node_config"]["addresses"] = [lab[WORKER].address]
        types["student"]["node_config"]["addresses"] = []
        (lab[LAPTOP].home / "conkd" / FILE).write_text(yaml.safe_dump(config))
        yield lab


def command(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lab[LAPTOP].run(
        *("python", "-m", "cluster", *arguments),
        env={"CONKD_CLUSTER": FILE},
        check=False,
        timeout_s=LIMIT_S,
    )


def wait_until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def teacher(lab: Lab, name: str, weights: bytes) -> str:
    folder = lab[LAPTOP].home / name
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "run").mkdir()
    (folder / "run" / "checkpoint").write_text("of the fit")
    return f"/user/{name}"


def test_push_goes_on_where_a_cut_cable_ended_it(lab: Lab, shared: Path, tmp_path: Path) -> None:
    weights = os.urandom(BIG_BYTES)
    folder = teacher(lab, "large", weights)
    lab[HEAD].limit(rate_mbit=RATE_MBIT)
    arriving = shared / "teachers" / ".large.part" / "model.safetensors"
    log = tmp_path / "push.log"
    push = lab[LAPTOP].start(
        *("python", "-m", "cluster", "push", folder), env={"CONKD_CLUSTER": FILE}, log=log
    )
    wait_until(lambda: arriving.is_file() and arriving.stat().st_size > SOME_BYTES)
    lab[HEAD].unplug()
    assert push.wait(LIMIT_S) == EXIT_ERROR
    assert "The same command goes on where this one ended." in log.read_text()
    assert not (shared / "teachers" / "large").exists()
    assert 0 < arriving.stat().st_size < BIG_BYTES
    lab[HEAD].plug_in()
    lab[HEAD].limit()
    again = command(lab, "push", folder)
    assert again.stdout == "teachers/large: 2 files, 16.8 MB, digests compared\n", again.stderr
    assert (shared / "teachers" / "large" / "model.safetensors").read_bytes() == weights
    assert sorted(it.name for it in (shared / "teachers" / "large").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_push_replaces_another_content_only_if_told_to(lab: Lab, shared: Path) -> None:
    folder = teacher(lab, "small", b"old")
    assert command(lab, "push", folder).returncode == 0
    assert "there already" in command(lab, "push", folder).stdout
    (lab[LAPTOP].home / "small" / "model.safetensors").write_bytes(b"new")
    refused = command(lab, "push", folder)
    assert (refused.returncode, refused.stderr.count("\n")) == (EXIT_ERROR, 1)
    assert "give --replace" in refused.stderr
    there = shared / "teachers" / "small" / "model.safetensors"
    assert there.read_bytes() == b"old"
    assert command(lab, "push", "--replace", folder).returncode == 0
    assert there.read_bytes() == b"new"


def test_down_waits_for_runs_to_be_pulled_and_leaves_hosts_clean(lab: Lab, shared: Path) -> None:
    run = shared / "runs" / "a"
    (run / "model").mkdir(parents=True)
    (run / "model" / "weights").write_bytes(b"w")
    for host in (lab[HEAD], lab[WORKER]):
        (host.home / ".bashrc").write_text(PROFILE + LINE)
        for name in SECRETS:
            (host.home / name).parent.mkdir(parents=True, exist_ok=True)
            (host.home / name).write_text("secret")
        host.start("setsid", "python", "-c", STUBBORN, log=shared / "log")
        wait_until(lambda host=host: bool(processes(host.run("ps", "-eo", "args").stdout)))

    refused = command(lab, "down", FILE)
    assert refused.returncode == EXIT_ERROR
    assert "a: not pulled" in refused.stderr
    pulled = command(lab, "pull", "a", "/user/pulled")
    assert pulled.stdout == "a: 1 files in /user/pulled, digests compared\n", pulled.stderr
    assert (lab[LAPTOP].home / "pulled" / "model" / "weights").read_bytes() == b"w"

    lab[WORKER].power_off()
    missed = command(lab, "down", FILE)
    assert missed.returncode == EXIT_ERROR
    assert "got 1 of which it is not known" in missed.stderr
    assert lab[WORKER].address in missed.stderr
    assert_clean(lab, HEAD)
    lab[WORKER].power_on()
    done = command(lab, "down", FILE)
    assert done.returncode == 0, done.stderr
    assert_clean(lab, WORKER)


def test_head_ends_the_cluster_when_its_hours_are_over(lab: Lab) -> None:
    laptop, head = lab[LAPTOP], lab[HEAD]
    # As Ray's launcher leaves them there.
    config = yaml.safe_load((laptop.home / "conkd" / FILE).read_text())
    config["auth"]["ssh_private_key"] = "~/ray_bootstrap_key.pem"
    (head.home / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump(config))
    shutil.copy2(laptop.home / ".ssh" / "id_ed25519", head.home / "ray_bootstrap_key.pem")
    for host in (head, lab[WORKER]):
        (host.home / ".bashrc").write_text(PROFILE + LINE)
        (host.home / SECRETS[0]).parent.mkdir()
        (host.home / SECRETS[0]).write_text("secret")
        host.start("setsid", "python", "-c", STUBBORN, log=host.console)
    head.run("python", "-m", "cluster.head", "watch", "--hours", "1")
    # Sooner, by the one process that watches already.
    head.run("python", "-m", "cluster.head", "watch", "--hours", "0.01")
    wait_until(lambda: not (head.home / "ray_bootstrap_key.pem").exists())
    wait_until(lambda: "cluster" not in head.run("ps", "-eo", "args").stdout)
    assert_clean(lab, HEAD)
    assert_clean(lab, WORKER)


def processes(listing: str) -> list[str]:
    return [line for line in listing.splitlines() if "numpy" in line]


def assert_clean(lab: Lab, name: str) -> None:
    host = lab[name]
    assert processes(host.run("ps", "-eo", "args").stdout) == []
    assert [it for it in SECRETS if (host.home / it).exists()] == []
    assert (host.home / ".bashrc").read_text() == PROFILE
