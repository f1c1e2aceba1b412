"""What a lab needs of this machine, checked before anything is made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from trainer.common.errors import InputError, MachineError, first_line

# Programs, and the Debian package of each.
PACKAGES = {
    "ip": "iproute2",
    "tc": "iproute2",
    "rsync": "rsync",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "tini": "tini",
    "mount": "mount",
    "unshare": "util-linux",
    "pivot_root": "util-linux",
}
# A shell of root on Debian may be without the folders of system programs.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def what_is_missing() -> str | None:
    """Why this machine cannot have a lab, as one line that says what to do; None if it can."""
    if sys.platform != "linux":
        return f"The system must be Linux, got {sys.platform}. Take a Linux machine."
    if os.geteuid():
        return (
            "A lab of network namespaces must be made by root, got user id "
            f"{os.geteuid()}. Take root, or a container with CAP_SYS_ADMIN and CAP_NET_ADMIN."
        )
    absent = {name: package for name, package in PACKAGES.items() if not which(name)}
    if absent:
        packages = " ".join(sorted(set(absent.values())))
        return (
            f"{', '.join(PACKAGES)} must be installed, got none of {', '.join(absent)}. "
            f"Install them with: apt-get install -y {packages}"
        )
    return _namespaces_refused()


def _namespaces_refused() -> str | None:
    # A container may have root and still refuse.
    tried = subprocess.run(
        ("unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "true"),
        capture_output=True,
        text=True,
        check=False,
    )
    if not tried.returncode:
        return None
    return (
        f"Namespaces must be allowed, got: {tried.stderr.strip()}. "
        "Give the container CAP_SYS_ADMIN and CAP_NET_ADMIN."
    )


def check_machine() -> None:
    """Raise InputError if this machine cannot have a lab."""
    problem = what_is_missing()
    if problem is not None:
        raise InputError(problem)


def which(name: str) -> str | None:
    """Path of a program, also of one that is for root alone."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{PATH}")


def call(*command: str | int | Path) -> str:
    """The output of a program on this machine; MachineError with what it wrote if it fails."""
    argv = [str(it) for it in command]
    argv[0] = which(argv[0]) or argv[0]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        why = first_line(OSError(done.stderr or done.stdout))
        raise MachineError(f"{' '.join(argv)} must end with 0, got {done.returncode}: {why}")
    return done.stdout
