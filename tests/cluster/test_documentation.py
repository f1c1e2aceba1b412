"""The commands of docs/cluster.md for machines of one's own, run from top to bottom.

A block of commands says where it is run: `sh local` on the laptop of a lab, here, and `sh aws`
against a fake AWS, in unit/cluster/aws. Where machines of a lab cannot do what a line says,
`INSTEAD` has what is run in its place.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.netns.lab import Lab
from tests.support.labs import need_lab
from tests.support.served_teachers import FittedTeachers
from tests.support.student_runs import ROOT

pytestmark = pytest.mark.timeout(1200)
DOCUMENT = ROOT / "docs" / "cluster.md"
BLOCK = re.compile(r"^```sh (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LAPTOP, HEAD, TEACHER, STUDENT = HOSTS = ("laptop", "head", "teacher1", "student1")
COMMAND_S = 400.0
# A lab has one host of each sort, and its students no DialoGPT.
INSTEAD = {
    "python -m cluster bench scaling --students 1,2,4 --teachers 1,2,4": (
        "python -m cluster bench scaling --students 1 --teachers 1 "
        "--config trainer/configs/synthetic.yaml"
    ),
}


def commands(sort: str) -> list[str]:
    """The lines of all blocks of a sort, without their comments."""
    blocks = [text for name, text in BLOCK.findall(DOCUMENT.read_text()) if name == sort]
    return [line.partition("  #")[0].strip() for text in blocks for line in text.splitlines()]


def test_every_block_of_commands_says_where_it_is_run() -> None:
    text = DOCUMENT.read_text()
    assert {name for name, _ in BLOCK.findall(text)} == {"local", "aws"}
    assert text.count("```") == 2 * len(BLOCK.findall(text))
    assert set(INSTEAD) <= set(commands("local"))


@pytest.fixture(scope="module")
def lab(
    tmp_path_factory: pytest.TempPathFactory, teachers: FittedTeachers, prepared_dir: Path
) -> Iterator[Lab]:
    """A laptop that has read the document up to its first command, and three other machines."""
    need_lab()
    folder = tmp_path_factory.mktemp("documentation")
    with Lab(folder, hosts=HOSTS, shared=folder / "shared", installed=(LAPTOP,)) as lab:
        sources = lab[LAPTOP].home / "conkd"
        edit(sources / "cluster" / "local.yaml", lab)
        for name, made in (
            ("redial", prepared_dir),
            ("dialogue", teachers.dialogue),
            ("recommendation", teachers.recommendation),
        ):
            shutil.copytree(made, sources / "build" / name)
        # The recipe that bench is given names its data so.
        (folder / "shared" / "data").mkdir()
        (folder / "shared" / "data" / "synthetic").symlink_to("redial")
        yield lab


def edit(file: Path, lab: Lab) -> None:
    """Addresses and user, as a reader writes them into the file."""
    text = file.read_text()
    for old, new in {
        "ssh_user: ubuntu": "ssh_user: root",
        "192.0.2.10": lab[HEAD].address,
        "[192.0.2.11, 192.0.2.12]": f"[{lab[TEACHER].address}]",
        "[192.0.2.13, 192.0.2.14]": f"[{lab[STUDENT].address}]",
    }.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def test_commands_on_machines_of_ones_own_work_line_by_line(lab: Lab) -> None:
    laptop, environment = lab[LAPTOP], {}
    for line in commands("local"):
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            environment[name] = value
            continue
        laptop.run("bash", "-c", INSTEAD.get(line, line), env=environment, timeout_s=COMMAND_S)
        # From here on as on another laptop that has the file and the key.
        laptop.run("find", "/tmp", "-mindepth", "1", "-delete")
    assert {it.name for it in laptop.home.iterdir()} == {".bashrc", ".cache", ".ssh", "conkd"}
    pulled = laptop.home / "conkd" / "build" / "pulled"
    assert (pulled / "model" / "config.json").is_file()
    assert "done" in (pulled / "supervisor.json").read_text()
    for name in (HEAD, TEACHER, STUDENT):
        assert lab[name].run("pgrep", "-f", "ray|conkd", check=False).stdout == ""
        assert not (lab[name].home / "conkd-tls").exists()
