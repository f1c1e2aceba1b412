"""The settings of a run that the cluster knows: nobody types a path, an address or a token."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.head.shared import DATA, TEACHERS, SharedFolder
from cluster.students.run_files import RUNS
from trainer.common.errors import MissingError

DIRECTORY_PORT = 50051
# A head that is back after a power cut has its fleet up again after 139 s; a spot node takes
# minutes to come.
PATIENCE_S = 600
FOLDERS = {
    "data": DATA,
    **dict.fromkeys(("classifier", "item_vectors", "knowledge"), TEACHERS),
}
"""Settings that name folders, and where their like lie on the shared folder."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is the same for all runs of a cluster."""

    shared: SharedFolder
    head_address: str
    credentials: Path
    """Students' folder of certificates and token, at the same path on every student node."""


def filled(
    run: str, folders: Mapping[str, str | None], given: Collection[str], place: Place
) -> list[str]:
    """Overrides `key=value` that make a run one of this cluster's.

    Args:
        run: its name.
        folders: the values of FOLDERS' settings in the run's config.
        given: dotted keys that config or command line set themselves: these stay, but for folders
            that are named relative to the repository.
        place: the cluster's.

    Raises:
        MissingError: if a folder is not on the shared folder.
    """
    known = {
        "output": str(place.shared.of(RUNS, run)),
        "teachers.directory": f"{place.head_address}:{DIRECTORY_PORT}",
        "teachers.tls": str(place.credentials),
        "teachers.token_file": str(place.credentials / "token"),
        "teachers.patience_s": str(PATIENCE_S),
    }
    # Never the laptop's: a run lies where `pull` and a restarted run find it.
    settings = {key: it for key, it in known.items() if key == "output" or key not in given}
    return [f"{key}={it}" for key, it in {**dict(_on_shared(folders, place)), **settings}.items()]


def _on_shared(folders: Mapping[str, str | None], place: Place) -> Iterator[tuple[str, str]]:
    for key, value in folders.items():
        if value is None or Path(value).is_absolute():
            continue
        found = place.shared.of(FOLDERS[key], Path(value).name)
        if not found.is_dir():
            raise MissingError(
                f"{key} must lie on the shared folder, got {value} and no {found}. Send it: python "
                f"-m cluster push {value}"
            )
        yield key, str(found)
