"""Fetch the public files that a corpus is made of, with resume, checksum and progress.

    python -m trainer.data download redial|dbpedia|conceptnet --output DIR [--mirror URL]

A file is written to NAME.part and renamed when it is whole and its checksum is right; a broken
connection is taken up again where it ended, also by a later call.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress, TaskID

from protos.fingerprint import digest_file

CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0
MAX_TRIES = 5
RETRY_S = 2.0
KGSF = (
    "https://raw.githubusercontent.com/Lancelot39/KGSF/"
    "a10c02cf31dd70d55e972c9ad046df16886f88e1/data"
)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One public file."""

    name: str
    url: str
    sha256: str | None
    """None: never seen here, so not pinned; the caller is told what was received."""


REDIAL = "https://github.com/ReDialData/website/raw/data/redial_dataset.zip"
CONCEPTNET = (
    "https://s3.amazonaws.com/conceptnet/downloads/2019/edges/conceptnet-assertions-5.7.0.csv.gz"
)
SOURCES: Mapping[str, tuple[RemoteFile, ...]] = {
    "redial": (RemoteFile(name="redial_dataset.zip", url=REDIAL, sha256=None),),
    "dbpedia": tuple(
        RemoteFile(name=name, url=f"{KGSF}/{name}", sha256=sha256)
        for name, sha256 in (
            (
                "entity2entityId.pkl",
                "ec3ac62ad968a130bc902747ca505f63c142e417b5205887be80955a16163483",
            ),
            (
                "id2entity.pkl",
                "415231d92dfdd4692f16812d7c4fcb58fea880291a3c952ec1f55f8e50cf07b9",
            ),
            (
                "movie_ids.pkl",
                "42f3fefa710f1ca5523aef2dacefd74f699898773243810d2988a10919e443da",
            ),
            (
                "subkg.pkl",
                "843aebff87af71a595789bc4d25929a8f584299644d93f3bb6fe40cacaaca72b",
            ),
        )
    ),
    "conceptnet": (
        RemoteFile(name="conceptnet-assertions-5.7.0.csv.gz", url=CONCEPTNET, sha256=None),
    ),
}


def download(
    source: str, output: Path, *, mirror: str | None, progress: Progress
) -> dict[str, str]:
    """Fetch the files of a source that are not there yet.

    Args:
        source: a key of SOURCES.
        output: folder; made if it is missing.
        mirror: fetch URL/NAME instead of the public addresses.

    Returns:
        Name -> hex SHA-256 of each file.

    Raises:
        ValueError: if a checksum differs; the file is removed.
        OSError: if a file cannot be had after MAX_TRIES tries; what came is kept for the next call.
    """
    output.mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}
    for file in SOURCES[source]:
        target = output / file.name
        url = f"{mirror.rstrip('/')}/{file.name}" if mirror else file.url
        if not target.exists():
            part = target.with_name(f"{file.name}.part")
            _fetch(url, part, progress)
            _check(part, file, url)
            part.replace(target)
        digests[file.name] = _check(target, file, url)
    return digests


def _fetch(url: str, part: Path, progress: Progress) -> None:
    bar = progress.add_task(part.name.removesuffix(".part"), total=None)
    for attempt in range(1, MAX_TRIES + 1):
        try:
            _append(url, part, progress, bar)
            return
        except (OSError, http.client.HTTPException) as error:
            is_final = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if is_final or attempt == MAX_TRIES:
                raise OSError(
                    f"{url} must be there to be fetched, got: {error}. Run the same command again "
                    "to go on, or name another --mirror."
                ) from error
            time.sleep(RETRY_S)


def _append(url: str, part: Path, progress: Progress, bar: TaskID) -> None:
    """Ask for what is missing and append it; start over if the server sends the whole."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # It was whole already.
        raise
    with response:
        is_rest = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = have if is_rest else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        progress.update(bar, completed=done, total=total)
        with part.open("ab" if is_rest else "wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress.update(bar, completed=done)
    if total is not None and done < total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


def _check(path: Path, file: RemoteFile, url: str) -> str:
    digest = digest_file(path)
    if file.sha256 is not None and digest != file.sha256:
        path.unlink()
        raise ValueError(
            f"{file.name} must have SHA-256 {file.sha256}, got {digest} from {url}. It was "
            "removed; fetch it again, or from elsewhere with --mirror."
        )
    return digest
