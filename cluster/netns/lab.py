"""Several hosts on this machine, for tests and benchmarks of a cluster.

    with Lab(folder, hosts=("laptop", "head", "teacher1"), shared=folder / "shared") as lab:
        lab["head"].run("ray", "status")

A host has its own network, mount, pid, uts and ipc namespaces: its own home, /tmp, /dev/shm, /run,
/etc/hosts and ssh server, and sees no process but its own. Of this machine it has the programs, the
folders below / and the environment of this checkout. A bridge connects the hosts; no way leads out.

Everything lives in namespaces below one process, which ends with this one, however it ends.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import yaml

from cluster.netns.environment import environment_folder, write_changed_files
from cluster.netns.host import Host, Place
from cluster.netns.network import MAX_HOSTS, Cable, make_bridge
from cluster.netns.ssh import write_machine_files
from cluster.netns.tools import PATH, call, check_machine
from trainer.common.errors import InputError, MachineError

ROOT = Path(__file__).resolve().parents[2]
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
# All hosts of all labs have the same path of the environment, so one build serves them all.
EXTENSIONS = Path("~/.cache/conkd-netns/torch_extensions")
HOLDER = 'read -r self rest < /proc/self/stat; echo "$self"; exec cat > /dev/null'
PROFILE = """\
export PATH=$HOME/conkd/.venv/bin:$PATH
export CONKD_SHARED=/shared
"""


class Lab(Mapping[str, Host]):
    """Hosts by name, from entering the context to leaving it."""

    def __init__(
        self,
        folder: Path,
        *,
        hosts: Sequence[str],
        shared: Path | None = None,
        installed: Collection[str] | None = None,
    ) -> None:
        """Describe a lab; nothing is started.

        Args:
            folder: where the disks of the hosts are made; it stays, for a look at logs.
            hosts: their names. The first has the key to all others, as a laptop has.
            shared: folder that all hosts have at /shared; None: there is none.
            installed: hosts that have the sources in ~/conkd, and the environment in their PATH;
                None: all. The others have an empty home, as before the first `up`.
        """
        self._folder = folder.resolve()
        self._names = tuple(hosts)
        self._shared = shared
        self._installed = self._names if installed is None else tuple(installed)
        self._hosts: dict[str, Host] = {}
        self._holder: subprocess.Popen[str] | None = None
        _check_names(self._names, self._installed)

    def __enter__(self) -> Lab:
        """Start all hosts; InputError if this machine cannot have a lab."""
        check_machine()
        _check_folder(self._folder)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop()

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._hosts)

    def __len__(self) -> int:
        return len(self._hosts)

    def _start(self) -> None:
        venv = environment_folder()
        disks = {name: self._folder / name for name in self._names}
        environment = self._folder / "environment"
        write_changed_files(venv, environment)
        extensions = EXTENSIONS.expanduser()
        for folder in (extensions, *filter(None, (self._shared,)), *disks.values()):
            folder.mkdir(parents=True, exist_ok=True)
        pid = self._start_holder()
        make_bridge(pid)
        cables = {name: Cable(pid, number) for number, name in enumerate(self._names)}
        write_machine_files(disks, {name: cable.address for name, cable in cables.items()})
        for name, disk in disks.items():
            (disk / "home" / ".bashrc").write_text("")
            if name in self._installed:
                install_sources(disk / "home")
            place = Place(
                disk=disk,
                venv=venv,
                environment=environment,
                extensions=extensions,
                shared=self._shared,
            )
            self._hosts[name] = Host(name, lab_pid=pid, cable=cables[name], place=place)
            self._hosts[name].power_on()

    def _start_holder(self) -> int:
        """Start the process below which all hosts live; it ends when its input ends."""
        command = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child")
        self._holder = subprocess.Popen(
            (*command, "sh", "-c", HOLDER),
            env={"PATH": PATH},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None
        pid = self._holder.stdout.readline().strip()
        if not pid:
            raise MachineError(f"{shlex.join(command)} must start, got no process of it")
        return int(pid)

    def _stop(self) -> None:
        for host in self._hosts.values():
            if host.is_on:
                host.power_off()
        if self._holder is not None:
            for pipe in (self._holder.stdin, self._holder.stdout):
                if pipe is not None:
                    pipe.close()
            self._holder.wait()
            self._holder = None


def install_sources(home: Path) -> None:
    """Copy the sources to ~/conkd as `up` does, and put the environment into the PATH."""
    sources = home / "conkd"
    sources.mkdir(parents=True, exist_ok=True)
    mounts = yaml.safe_load((ROOT / "cluster" / "local.yaml").read_text())["file_mounts"]
    parts = [ROOT / it for it in mounts.values()]
    call("rsync", "-a", "--exclude", "__pycache__", *parts, f"{sources}/")
    (home / ".bashrc").write_text(PROFILE)


def _check_names(names: Sequence[str], installed: Collection[str]) -> None:
    if not 1 <= len(names) <= MAX_HOSTS or len(set(names)) < len(names):
        raise InputError(f"hosts must be 1 to {MAX_HOSTS} different names, got {list(names)}.")
    for name in names:
        if not NAME.fullmatch(name):
            raise InputError(f"A host's name must match {NAME.pattern}, got {name!r}.")
    unknown = sorted(set(installed) - set(names))
    if unknown:
        raise InputError(f"installed must name hosts of the lab, got {unknown}.")


def _check_folder(folder: Path) -> None:
    if folder.is_relative_to("/run") or folder.is_relative_to("/var/run"):
        raise InputError(f"The folder of a lab must lie outside /run, got {folder}. Take another.")
    if any((folder / name).exists() for name in ("environment",)):
        raise InputError(f"The folder of a lab must be empty, got {folder}. Take a new one.")
