from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.progress import Progress

from trainer.data import download as module
from trainer.data.__main__ import DOWNLOADS, main
from trainer.data.download import RemoteFile, download

CONTENT = bytes(range(256)) * 4_000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; of /cut only 300,000 bytes, of /stall none before `go_on`."""

    protocol_version = "HTTP/1.1"
    paths: list[str]
    go_on = threading.Event()

    def do_GET(self) -> None:
        self.paths.append(self.path)
        if "missing" in self.path:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if "stall" in self.path:
            self.go_on.wait(30)
        self.wfile.write(CONTENT[:300_000] if "cut" in self.path else CONTENT)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Handler, "paths", [], raising=False)
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    # The default half second between looks for the end is what a test would wait.
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{listener.server_port}"
    listener.shutdown()
    thread.join()
    listener.server_close()


def sources(url: str, sha256: str | None = SHA) -> dict[str, tuple[RemoteFile, ...]]:
    return {"redial": (RemoteFile(name="thing.zip", url=f"{url}/thing.zip", sha256=sha256),)}


def fetch(output: Path, url: str, sha256: str | None = SHA) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch, Progress(disable=True) as progress:
        patch.setattr(module, "SOURCES", sources(url, sha256))
        return download("redial", output, progress=progress)


def test_download_fetches_once_and_checks(tmp_path: Path, server: str) -> None:
    assert fetch(tmp_path / "new", server) == {"thing.zip": SHA}
    assert (tmp_path / "new" / "thing.zip").read_bytes() == CONTENT
    assert fetch(tmp_path / "new", server, sha256=None) == {"thing.zip": SHA}
    assert Handler.paths == ["/thing.zip"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["thing.zip"]


@pytest.mark.parametrize("sha256", [SHA, None])
def test_download_that_ends_early_leaves_no_file(
    tmp_path: Path, server: str, sha256: str | None
) -> None:
    with pytest.raises(OSError, match=r"cut/thing\.zip .* 300000 of 1024000 bytes.*again"):
        fetch(tmp_path, f"{server}/cut", sha256)
    assert list(tmp_path.iterdir()) == []


def test_download_from_a_server_that_stalls_is_an_error(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    try:
        with pytest.raises(OSError, match=r"stall/thing\.zip .* timed out.*again"):
            fetch(tmp_path, f"{server}/stall")
    finally:
        Handler.go_on.set()
    assert list(tmp_path.iterdir()) == []


def test_download_replaces_what_an_interrupted_one_left(tmp_path: Path, server: str) -> None:
    (tmp_path / "thing.zip.part").write_bytes(b"something else")
    assert fetch(tmp_path, server) == {"thing.zip": SHA}
    assert [path.name for path in tmp_path.iterdir()] == ["thing.zip"]


def test_download_of_another_content_is_refused_and_removed(tmp_path: Path, server: str) -> None:
    with pytest.raises(ValueError, match=f"must have SHA-256 {'0' * 64}, got {SHA}.* from http"):
        fetch(tmp_path, server, sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_file_put_there_by_hand_is_checked_and_not_fetched(tmp_path: Path, server: str) -> None:
    (tmp_path / "thing.zip").write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"must have SHA-256 {SHA}"):
        fetch(tmp_path, server)
    assert Handler.paths == []


def test_download_that_cannot_be_had_says_where(tmp_path: Path, server: str) -> None:
    with pytest.raises(OSError, match=r"missing/thing\.zip must be there .* 404.* yourself"):
        fetch(tmp_path, f"{server}/missing")
    assert len(Handler.paths) == 1


def test_sources_of_the_command_are_those_that_can_be_fetched() -> None:
    assert tuple(module.SOURCES) == DOWNLOADS


def test_main_download_prints_checksums_and_refuses_the_mirror_that_was_removed(
    tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SOURCES", sources(server))
    command = ["download", "redial", "--output", str(tmp_path)]
    main(command)
    assert capsys.readouterr().out.split()[0] == SHA
    with pytest.raises(ValueError, match=r"--mirror must be left out: .*folder of --output"):
        main([*command, "--mirror", server])
