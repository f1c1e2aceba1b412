"""The prepared environment of this checkout, as hosts have it at ~/conkd/.venv.

It is mounted there, not copied: it has gigabytes. Its programs name their interpreter, and its
editable install names the sources, by paths of this machine; hosts get changed copies of these
files, mounted over the originals.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from trainer.common.errors import InputError

HOME = Path("/user")
SOURCES = HOME / "conkd"
INSTALLED = ".installed"
SHEBANG_BYTES = 512


def environment_folder() -> Path:
    """The virtual environment that this process runs in; InputError if it runs in none."""
    folder = Path(sys.prefix).resolve()
    if not (folder / "pyvenv.cfg").is_file():
        raise InputError(
            f"A lab must be made in a virtual environment, got Python in {folder}. "
            "Make one with: make environment"
        )
    return folder


def write_changed_files(environment: Path, output: Path) -> None:
    """Write the files of an environment that hosts need in another form, below `output`."""
    shutil.copytree(environment / "bin", output / "bin", symlinks=True)
    for script in (output / "bin").iterdir():
        if script.is_file() and not script.is_symlink():
            _replace_interpreter(script)
    packages = next((environment / "lib").glob("python3*/site-packages"))
    sources = _installed_from(packages)
    for file in packages.glob("__editable__*"):
        changed = output / file.relative_to(environment)
        changed.parent.mkdir(parents=True, exist_ok=True)
        changed.write_text(file.read_text().replace(sources, str(SOURCES)))
    if (environment / INSTALLED).exists():
        # Newer than what is copied: `make environment` finds nothing to do on a host.
        (output / INSTALLED).touch()


def _replace_interpreter(script: Path) -> None:
    with script.open("rb") as file:
        head = file.read(SHEBANG_BYTES)
    if not head.startswith(b"#!"):
        return
    line = head.split(b"\n", 1)[0]
    interpreter = line[2:].strip().decode()
    if Path(interpreter).name.startswith("python"):
        changed = f"#!{SOURCES / '.venv' / 'bin' / Path(interpreter).name}".encode()
        script.write_bytes(changed + script.read_bytes()[len(line) :])


def _installed_from(packages: Path) -> str:
    for record in packages.glob("conkd-*.dist-info/direct_url.json"):
        url = urlsplit(json.loads(record.read_text())["url"])
        return url.path
    raise InputError(
        f"The environment must have conkd installed from its sources, got none in {packages}. "
        "Run: make environment"
    )
