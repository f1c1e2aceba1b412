"""Runs on a host by its python3 alone: ends what the cluster started there and removes its files.

It is sent over ssh as it stands (`text`), and so imports nothing but Python's standard library.
Sources and environment stay, for the next `up`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

# A replica drains for 5 s.
TERM_S = 8.0
KILL_S = 10.0
POLL_S = 0.2
# Keys, tokens and what Ray's launcher and our commands note; relative to the home.
FILES = (
    *("ray_bootstrap_key.pem", "ray_bootstrap_config.yaml", ".ray/auth_token"),
    # Of cluster.machines and its start commands.
    *(".ray/started.json", ".ray/machines.json", ".ray/gcs"),
    *("conkd-tls", "conkd-tls-server", ".conkd-student", "conkd/runs/fleet.json"),
    *(".conkd-watch.json", ".conkd-watch.lock", ".conkd-watch.log"),
)
TMP = Path("/tmp")
# The line of ~/.bashrc begins so that the cluster's file adds; other lines are the user's.
EXPORT = "export RAY_AUTH_MODE=token CONKD_SHARED="
# Ray's sessions, and its launcher's ssh connections.
OF_RAY = ("ray", "ray_ssh_*")


def clean(home: Path, spared: Iterable[int], *, files: bool, tmp: Path = TMP) -> dict[str, object]:
    """End the processes, and remove the files too if asked; what was found and what is left."""
    num_ended, left = end_processes(home, spared)
    removed, kept = remove_files(home, tmp) if files else ([], [])
    return {"ended": num_ended, "left": left, "removed": removed, "kept": kept}


def end_processes(home: Path, spared: Iterable[int]) -> tuple[int, list[str]]:
    """End all processes of the environment in ~/conkd and their children; the number, and the rest.

    Args:
        home: its user's.
        spared: processes to be left, with their children; this one and those above it always are.
    """
    spared = set(spared)
    found: set[int] = set()
    for signum, limit_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
        # Looked for again at each try: what ends may start something else first.
        end = time.monotonic() + limit_s
        while ours := _ours(home, spared):
            for pid in ours - (found if signum == signal.SIGTERM else set()):
                _send(pid, signum)
            found |= ours
            if time.monotonic() > end:
                break
            time.sleep(POLL_S)
    return len(found), [f"{pid} {_command(pid)}" for pid in sorted(_ours(home, spared))]


def remove_files(home: Path, tmp: Path = TMP) -> tuple[list[str], list[str]]:
    """Remove keys, tokens, notes and Ray's folders of this user; what went, and what did not."""
    of_ray = (path for pattern in OF_RAY for path in sorted(tmp.glob(pattern)))
    paths = [path for path in (*(home / name for name in FILES), *of_ray) if _is_own(path)]
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # then it is among what did not go
                path.unlink()
    kept = [str(path) for path in paths if os.path.lexists(path)]
    gone = [str(path) for path in paths if not os.path.lexists(path)]
    return gone + _remove_exports(home), kept


def _is_own(path: Path) -> bool:
    return os.path.lexists(path) and path.lstat().st_uid == os.getuid()


def _remove_exports(home: Path) -> list[str]:
    """Take the line of the cluster's file out of ~/.bashrc."""
    path = home / ".bashrc"
    if not path.is_file():
        return []
    lines = path.read_text().splitlines(keepends=True)
    kept = [it for it in lines if not it.startswith(EXPORT)]
    if kept == lines:
        return []
    path.write_text("".join(kept))
    return [str(path)]


def _ours(home: Path, spared: set[int]) -> set[int]:
    """Processes of this user that run from the environment, and all below them."""
    parents = _parents()
    # Not the children of those above: they are all that the host runs.
    spared = _with_children(spared, parents) | _line_above(os.getpid(), parents)
    roots = {pid for pid in parents if pid not in spared and _is_of(pid, home)}
    return _with_children(roots, parents) - spared


def _is_of(pid: int, home: Path) -> bool:
    environment = home / "conkd" / ".venv"
    # An interpreter's own file may lie elsewhere; the libraries that it has loaded do not. Ray
    # overwrites command lines.
    inside = tuple({f"{environment}/", f"{environment.resolve()}/"})
    try:
        if Path(f"/proc/{pid}").stat().st_uid != os.getuid():
            return False
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        maps = Path(f"/proc/{pid}/maps").read_text(errors="replace")
    except OSError:
        return False
    return command.startswith(inside) or any(it in maps for it in inside)


def _parents() -> dict[int, int]:
    """Parent of every process; those that have ended are left out."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state not in "ZX":
                parents[int(entry.name)] = int(parent)
    return parents


def _with_children(pids: set[int], parents: dict[int, int]) -> set[int]:
    all_of, added = set(pids), set(pids)
    while added:
        added = {pid for pid, parent in parents.items() if parent in added} - all_of
        all_of |= added
    return all_of


def _line_above(pid: int, parents: dict[int, int]) -> set[int]:
    line = {pid}
    while pid in parents:
        pid = parents[pid]
        line.add(pid)
    return line


def _send(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
    except OSError:
        return ""


def text(spared: Iterable[int] = (), *, files: bool) -> str:
    """This file as a program that cleans its host and prints JSON."""
    call = f"clean(Path.home(), {sorted(spared)}, files={files})"
    return f"{Path(__file__).read_text()}\n\nimport json\nprint(json.dumps({call}))\n"
