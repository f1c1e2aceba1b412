"""Fetch the public files that a corpus is made of, with checksum and progress.

    python -m trainer.data download redial|dbpedia|conceptnet --output DIR

A file is written to NAME.part and renamed when it is whole and its checksum is right.
"""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from protos.fingerprint import digest_file
from trainer.common.errors import InputError, MachineError

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
    """None: not pinned; `download` returns the digest of what was received."""


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

# Without any byte for so long a connection counts as lost.
TIMEOUT_S = 60.0
BLOCK_BYTES = 1 << 20


def download(source: str, output: Path, *, progress: Progress) -> dict[str, str]:
    """Fetch the files of a source that are not there yet.

    Args:
        source: a key of SOURCES.
        output: folder; made if it is missing.

    Returns:
        Name -> hex SHA-256 of each file.

    Raises:
        InputError: if a checksum differs; the file is removed.
        MachineError: if a file cannot be had, or the connection ends before the file does.
    """
    output.mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}
    for file in SOURCES[source]:
        target = output / file.name
        if not target.exists():
            part = target.with_name(f"{file.name}.part")
            _fetch(file, part, progress)
            _check(part, file)
            part.replace(target)
        digests[file.name] = _check(target, file)
    return digests


def _fetch(file: RemoteFile, part: Path, progress: Progress) -> None:
    bar = progress.add_task(file.name, total=None)
    try:
        # A timeout for every read; and unlike torch.hub's download, a connection that ends early
        # is an error, which counts for files without a pinned checksum.
        with (
            urllib.request.urlopen(file.url, timeout=TIMEOUT_S) as reply,
            part.open("wb") as target,
        ):
            expected = int(reply.headers.get("Content-Length", -1))
            progress.update(bar, total=expected if expected >= 0 else None)
            while block := reply.read(BLOCK_BYTES):
                target.write(block)
                progress.advance(bar, len(block))
            if target.tell() != expected >= 0:
                raise MachineError(f"{target.tell()} of {expected} bytes")
    except (OSError, http.client.HTTPException) as error:
        part.unlink(missing_ok=True)
        raise MachineError(
            f"{file.url} must be there to be fetched, got: {error}. Run the same command again, or "
            f"put {file.name} into {part.parent} yourself."
        ) from error


def _check(path: Path, file: RemoteFile) -> str:
    digest = digest_file(path)
    if file.sha256 is not None and digest != file.sha256:
        path.unlink()
        raise InputError(
            f"{file.name} must have SHA-256 {file.sha256}, got {digest}. It was removed; fetch it "
            f"again from {file.url}."
        )
    return digest
