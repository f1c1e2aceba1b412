"""The shared folder on a node, by NFS 4: commands alone, so that their order can be tested."""

from __future__ import annotations

from pathlib import Path

# What AWS recommends for EFS. Hard: a run waits for a server that is away, and loses no write.
OPTIONS = "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport"
PRIVATE = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"


def mount_commands(source: str, target: Path) -> list[list[str]]:
    """Mount a server's folder, once, and let this user write there."""
    mount = f"mountpoint -q {target} || mount -t nfs4 -o {OPTIONS} {source} {target}"
    return [_as_root(f"mkdir -p {target}"), _as_root(mount), *_own(target)]


def export(target: Path) -> list[list[str]]:
    """Make the folder here, on the head, and hand it to the others of its network."""
    install = "apt-get -o DPkg::Lock::Timeout=600 install -y -qq nfs-kernel-server >/dev/null"
    networks = " ".join(f"{it}(rw,sync,no_subtree_check)" for it in PRIVATE.split(","))
    return [
        _as_root(f"command -v exportfs >/dev/null || {install}"),
        _as_root(f"mkdir -p {target} && mkdir -p /etc/exports.d"),
        _as_root(f"echo '{target} {networks}' > /etc/exports.d/conkd.exports"),
        _as_root("systemctl start nfs-server && exportfs -ra"),
        *_own(target),
    ]


def _own(target: Path) -> list[list[str]]:
    """A new file system is root's: its top becomes this user's, whose number all nodes share."""
    return [["bash", "-c", f"test -w {target} || sudo chown $(id -u):$(id -g) {target}"]]


def _as_root(command: str) -> list[str]:
    return ["sudo", "bash", "-c", command]
