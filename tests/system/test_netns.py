"""Hosts on one machine: what is apart, the power switch, the cable, and that nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cluster.netns.host import Host
from cluster.netns.lab import Lab
from tests.support.labs import need_lab
from tests.support.student_runs import ROOT
from trainer.common.errors import InputError, MachineError

HOSTS = ("laptop", "far")
LIMIT_S = 60.0
OTHER = """
import sys, time
from pathlib import Path
from cluster.netns.lab import Lab
with Lab(Path(sys.argv[1]), hosts=("one", "two")) as lab:
    print(lab["one"].pid, lab["two"].pid, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    need_lab()
    folder = tmp_path_factory.mktemp("lab")
    with Lab(folder, hosts=HOSTS, shared=folder / "shared", installed=("laptop",)) as lab:
        yield lab


def reached(lab: Lab, *, patience_s: int = 1) -> bool:
    limits = (f"ConnectTimeout={patience_s}", "BatchMode=yes", "StrictHostKeyChecking=yes")
    options = [it for limit in limits for it in ("-o", limit)]
    return not lab["laptop"].run("ssh", *options, "far", "true", check=False).returncode


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "the condition must become true"
        time.sleep(0.1)


def on(host: Host, command: str) -> str:
    return host.run("sh", "-c", command).stdout.strip()


def test_a_host_has_a_name_processes_and_folders_of_its_own(lab: Lab, tmp_path: Path) -> None:
    laptop, far = lab["laptop"], lab["far"]
    assert on(far, "hostname") == "far"
    assert int(on(far, "ps -e | wc -l")) < 10
    on(far, "touch /tmp/mine /dev/shm/mine ~/mine")
    assert on(laptop, "ls /tmp /dev/shm") == "/dev/shm:\n\n/tmp:"
    assert (far.home / "mine").exists()
    assert not tmp_path.parent.name.startswith(on(far, "ls /tmp"))
    # As Debian's installer has it; others know the address.
    assert on(far, "getent hosts far").split()[0] == "127.0.1.1"
    assert on(laptop, "getent hosts far").split()[0] == far.address


def test_all_hosts_have_the_shared_folder_and_nobody_writes_the_environment(lab: Lab) -> None:
    on(lab["laptop"], "echo 1 > /shared/file")
    assert on(lab["far"], "cat /shared/file") == "1"
    with pytest.raises(MachineError, match="Read-only file system"):
        on(lab["far"], "touch ~/conkd/.venv/mine")


def test_a_host_runs_its_own_sources_in_the_prepared_environment(lab: Lab) -> None:
    code = "import cluster, sys; print(sys.prefix, cluster.__file__)"
    told = lab["laptop"].run("python", "-c", code).stdout.split()
    assert told == ["/user/conkd/.venv", "/user/conkd/cluster/__init__.py"]
    # The other is as it was before the first `up`.
    assert lab["far"].run("ls").stdout == ""
    assert on(lab["laptop"], "make -n environment") == "make: Nothing to be done for 'environment'."


def test_no_way_leads_out_and_nothing_waits_for_one(lab: Lab) -> None:
    refused = lab["far"].run(
        "bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/80", check=False, timeout_s=LIMIT_S
    )
    assert "unreachable" in refused.stderr
    assert lab["far"].run("getent", "hosts", "example.org", check=False).stdout == ""


def test_a_link_that_is_cut_is_silent_until_it_is_mended(lab: Lab) -> None:
    assert reached(lab)
    lab["far"].unplug()
    assert not reached(lab)
    lab["far"].plug_in()
    wait_until(lambda: reached(lab))


def test_a_power_cut_ends_everything_but_the_disk(lab: Lab, tmp_path: Path) -> None:
    far = lab["far"]
    on(far, "touch ~/kept && touch /dev/shm/lost")
    sleeper = far.start("sleep", "600", log=tmp_path / "log")
    wait_until(lambda: on(far, "pgrep -c sleep || true") == "1")
    far.power_off()
    assert sleeper.wait(LIMIT_S) == 128 + signal.SIGKILL
    assert not reached(lab)
    with pytest.raises(MachineError, match="far must be on, got off"):
        far.run("true")
    far.power_on()
    # At once, by the same address: others need not forget it first.
    assert reached(lab)
    assert on(far, "ls ~/kept /dev/shm").endswith("/dev/shm:")


def test_a_command_ends_by_its_signal_and_by_its_limit_of_time(lab: Lab, tmp_path: Path) -> None:
    far, log = lab["far"], tmp_path / "log"
    trap = "trap 'echo asked; exit 7' INT; echo ready; while :; do sleep .1; done"
    process = far.start("bash", "-c", trap, log=log)
    wait_until(lambda: "ready" in log.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 7
    assert log.read_text() == "ready\nasked\n"
    with pytest.raises(TimeoutError, match="must end within 1 s"):
        far.run("sh", "-c", "sleep 600", timeout_s=1)
    wait_until(lambda: on(far, "pgrep -c sleep || true") == "0")
    with pytest.raises(MachineError, match="must end with 0, got 3"):
        far.run("sh", "-c", "exit 3")


def test_a_limited_link_carries_so_much_and_no_more(lab: Lab, tmp_path: Path) -> None:
    far, rate, num_bytes = lab["far"], 50.0, 5_000_000
    server = "import socket; s = socket.create_server(('', 9000)); print('up', flush=True)\n"
    server += "c, _ = s.accept()\nwhile c.recv(1 << 20): pass\nc.sendall(b'.')"
    client = "import socket, time; c = socket.create_connection(('far', 9000)); t = time.time()\n"
    client += f"c.sendall(bytes({num_bytes})); c.shutdown(1); c.recv(1); print(time.time() - t)"
    python = "/usr/bin/env PATH=$HOME/conkd/.venv/bin:$PATH python -c"
    far.limit(rate_mbit=rate)
    log = tmp_path / "log"
    serving = far.start("sh", "-c", f'{python} "{server}"', log=log)
    wait_until(lambda: "up" in log.read_text())
    took_s = float(lab["laptop"].run("python", "-c", client).stdout)
    far.limit()
    assert serving.wait(LIMIT_S) == 0
    # Of the bytes that no bucket holds; a slow machine takes longer.
    assert took_s > 0.8 * num_bytes * 8 / (rate * 1e6)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_second_lab_is_apart_and_ends_with_its_process(
    end: signal.Signals, lab: Lab, tmp_path: Path
) -> None:
    argv = (sys.executable, "-c", OTHER, str(tmp_path / "other"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as other:
        assert other.stdout is not None
        pids = [int(it) for it in other.stdout.readline().split()]
        assert len(pids) == 2
        assert all(psutil.pid_exists(it) for it in pids)
        assert reached(lab)
        other.send_signal(end)
        other.wait(LIMIT_S)
    wait_until(lambda: not any(psutil.pid_exists(it) for it in pids))
    mounts = Path("/proc/mounts").read_text()
    assert str(tmp_path) not in mounts


def test_wrong_hosts_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    for hosts, text in (((), "1 to 200"), (("a", "a"), "different"), (("A b",), "must match")):
        with pytest.raises(InputError, match=text):
            Lab(tmp_path / "lab", hosts=hosts)
    with pytest.raises(InputError, match="installed must name"):
        Lab(tmp_path / "lab", hosts=("a",), installed=("b",))
    assert not (tmp_path / "lab").exists()
