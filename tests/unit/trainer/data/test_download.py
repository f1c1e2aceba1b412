from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.progress import Progress

from trainer.data import download as module
from trainer.data.__main__ import main
from trainer.data.download import RemoteFile, download

CONTENT = bytes(range(256)) * 4_000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, with ranges; /cut ends every answer after 300,000 bytes."""

    protocol_version = "HTTP/1.1"
    ranges: list[str | None]
    honours_ranges = True

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.ranges.append(wanted)
        if "missing" in self.path:
            self.send_error(404)
            return
        start = 0
        if wanted and self.honours_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        rest = CONTENT[start:]
        self.wfile.write(rest[:300_000] if "cut" in self.path else rest)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    monkeypatch.setattr(Handler, "ranges", [], raising=False)
    monkeypatch.setattr(Handler, "honours_ranges", True)
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    thread.join()
    listener.server_close()


def fetch(output: Path, url: str, sha256: str | None = SHA) -> dict[str, str]:
    sources = {"thing": (RemoteFile(name="thing.zip", url=f"{url}/thing.zip", sha256=sha256),)}
    with pytest.MonkeyPatch.context() as patch, Progress(disable=True) as progress:
        patch.setattr(module, "SOURCES", sources)
        return download("thing", output, mirror=None, progress=progress)


def test_download_fetches_once_and_checks(tmp_path: Path, server: str) -> None:
    assert fetch(tmp_path / "new", server) == {"thing.zip": SHA}
    assert (tmp_path / "new" / "thing.zip").read_bytes() == CONTENT
    assert fetch(tmp_path / "new", server, sha256=None) == {"thing.zip": SHA}
    assert Handler.ranges == [None]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["thing.zip"]


def test_download_goes_on_where_the_connection_ended(tmp_path: Path, server: str) -> None:
    assert fetch(tmp_path, f"{server}/cut") == {"thing.zip": SHA}
    assert Handler.ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_download_of_a_later_call_goes_on_too(tmp_path: Path, server: str) -> None:
    (tmp_path / "thing.zip.part").write_bytes(CONTENT[:1000])
    fetch(tmp_path, server)
    (tmp_path / "thing.zip").rename(tmp_path / "thing.zip.part")
    fetch(tmp_path, server)
    assert Handler.ranges == ["bytes=1000-", f"bytes={len(CONTENT)}-"]


def test_download_from_a_server_without_ranges_starts_over(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Handler, "honours_ranges", False)
    (tmp_path / "thing.zip.part").write_bytes(b"something else")
    assert fetch(tmp_path, server) == {"thing.zip": SHA}


def test_download_of_another_content_is_refused_and_removed(tmp_path: Path, server: str) -> None:
    with pytest.raises(ValueError, match=f"must have SHA-256 {'0' * 64}, got {SHA} from http"):
        fetch(tmp_path, server, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_download_that_cannot_be_had_says_where(tmp_path: Path, server: str) -> None:
    with pytest.raises(OSError, match=r"missing/thing\.zip must be there .* 404"):
        fetch(tmp_path, f"{server}/missing")
    assert len(Handler.ranges) == 1


def test_main_download_takes_a_mirror_and_prints_checksums(
    tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["download", "conceptnet", "--output", str(tmp_path), "--mirror", server])
    assert capsys.readouterr().out.split()[0] == SHA
    with pytest.raises(ValueError, match=r"entity2entityId\.pkl must have SHA-256 ec3ac62a"):
        main(["download", "dbpedia", "--output", str(tmp_path), "--mirror", server])
