"""The instance metadata of one node of EC2, by hand; of the standard library alone.

python tests/support/fake_metadata.py ADDRESS PORT NOTICE    # a file, once there is one
"""

from __future__ import annotations

import datetime
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

TOKEN = "fake-session-token"
NOTICE = "spot/instance-action"


class FakeMetadata(ThreadingHTTPServer):
    """Answers with `texts`, by path below latest/meta-data/, to those who have a token."""

    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__((address, port), FakeMetadataHandler)
        self.texts: dict[str, str] = {}
        self.notice: Path | None = None

    def text(self, path: str) -> str | None:
        """What is to be had below a path."""
        if path == NOTICE and self.notice is not None:
            return self.notice.read_text() if self.notice.exists() else None
        return self.texts.get(path)


class FakeMetadataHandler(BaseHTTPRequestHandler):
    """Version 2: first a token, by PUT."""

    server: FakeMetadata

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        self.answer(TOKEN)

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
            self.send_error(401)
            return
        text = self.server.text(self.path.removeprefix("/latest/meta-data/"))
        if text is None:
            self.send_error(404)
        else:
            self.answer(text)

    def answer(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        del format, args


def notice(seconds: int) -> str:
    """A notice that the instance goes after so long."""
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    return json.dumps({"action": "terminate", "time": f"{end:%Y-%m-%dT%H:%M:%SZ}"})


if __name__ == "__main__":
    fake = FakeMetadata(sys.argv[1], int(sys.argv[2]))
    fake.notice = Path(sys.argv[3])
    fake.serve_forever()
