"""Files by which the first host reaches all others with ssh, and which every machine has."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from cluster.netns.environment import HOME
from cluster.netns.tools import call

KEY = ".ssh/id_ed25519"
HOST_KEY = "etc/ssh_host_ed25519_key"
# Where a host sees its disk.
DISK = Path("/run/disk")
# A setting of the machine, as /etc/environment would have it.
MACHINE = {
    "LANG": "C.UTF-8",
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
SERVER = f"""\
HostKey {DISK / HOST_KEY}
PidFile /run/sshd.pid
AuthorizedKeysFile .ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
UseDNS no
MaxStartups 100
MaxSessions 100
Subsystem sftp internal-sftp
SetEnv {" ".join(f"{key}={value}" for key, value in MACHINE.items())}
"""


def write_machine_files(disks: Mapping[str, Path], addresses: Mapping[str, str]) -> None:
    """Write names, keys and the ssh server's settings to the disks of all hosts.

    The first host alone has the user's key; all let it in, and know each other's keys.
    """
    for disk in disks.values():
        (disk / HOST_KEY).parent.mkdir(parents=True)
        _make_key(disk / HOST_KEY)
    known = "".join(
        f"{name},{addresses[name]} {_public(disk / HOST_KEY)}\n" for name, disk in disks.items()
    )
    first = next(iter(disks.values())) / "home" / KEY
    first.parent.mkdir(parents=True, mode=0o700)
    _make_key(first)
    for name, disk in disks.items():
        folder = disk / "home" / ".ssh"
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        (folder / "authorized_keys").write_text(f"{_public(first)}\n")
        (folder / "known_hosts").write_text(known)
        (disk / "etc" / "sshd_config").write_text(SERVER)
        (disk / "etc" / "hosts").write_text(hosts_file(name, addresses))
        (disk / "etc" / "resolv.conf").write_text("")
        (disk / "etc" / "passwd").write_text(passwd_file(Path("/etc/passwd").read_text()))


def hosts_file(name: str, addresses: Mapping[str, str]) -> str:
    """/etc/hosts as Debian's installer writes it: the own name means a loopback address."""
    others = "".join(f"{it}\t{host}\n" for host, it in addresses.items() if host != name)
    return f"127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n{others}"


def passwd_file(machine: str) -> str:
    """/etc/passwd of this machine, with root's home where a host has it."""
    root = f"root:x:0:0:root:{HOME}:{shutil.which('bash')}"
    return re.sub(r"^root:.*$", root, machine, flags=re.MULTILINE)


def _make_key(file: Path) -> None:
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", file)


def _public(key: Path) -> str:
    return key.with_name(f"{key.name}.pub").read_text().strip()
