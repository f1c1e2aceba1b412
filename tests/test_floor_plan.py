"""The floor plan, read from the sources: who may import whom, and what is where."""

from __future__ import annotations

import ast
import fnmatch
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GENERATED = "teacher_pb2"
MAX_LINES = 400
# protos <- trainer <- teacher_server <- cluster.
MAY_IMPORT = {
    "protos": set[str](),
    "trainer": {"protos"},
    "teacher_server": {"protos", "trainer"},
    "cluster": {"protos", "trainer", "teacher_server"},
}
# What is heavy, or binds us to one engine, stays behind a few doors; a folder ends with a slash.
DOORS = {
    "deepspeed": {"trainer/engine.py"},
    "ray": {
        "teacher_server/deployment.py",
        "teacher_server/directory.py",
        "teacher_server/main.py",
        "teacher_server/autoscaling.py",  # what Serve's controller runs
        "teacher_server/fleet.py",  # the parts of main.py that talk to Serve and to Ray
        "teacher_server/fleet_status.py",
        "teacher_server/ray_cluster.py",
        "cluster/",
    },
    "torch_geometric": {"trainer/models/rgcn.py", "trainer/models/word_conv.py"},
    "prometheus_client": {
        "teacher_server/metrics.py",
        "trainer/exporter.py",
        "trainer/metrics_http.py",
    },
    "opentelemetry": {"trainer/spans.py"},
    "lmdb": {"trainer/target_cache.py"},
    "grpc": {
        "trainer/teacher_streams.py",
        "trainer/channels.py",  # how students and our commands dial, TLS and token included
        "teacher_server/service.py",
        "teacher_server/directory_server.py",
        "teacher_server/rpc.py",  # what service.py and directory_server.py share
        "cluster/bench/load.py",  # asks as fast as it is answered, without our client
        "teacher_server/security.py",
    },
}
TOP_LEVEL = {
    *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml"),
    *("README.md", "LICENSE", "Makefile", "constraints.txt", "pyproject.toml"),
    *("docs", "tests", *MAY_IMPORT),
}


def modules() -> list[Path]:
    """Our own modules, relative to the root."""
    found = (it.relative_to(ROOT) for name in MAY_IMPORT for it in (ROOT / name).rglob("*.py"))
    return sorted(it for it in found if not it.name.startswith(GENERATED))


def imported_by(source: str) -> Iterator[str]:
    """Full names of all modules that a source imports, wherever it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"imports must be absolute, got one at line {node.lineno}"
            yield node.module or ""


def is_behind(path: Path, doors: set[str]) -> bool:
    return any(
        path.as_posix().startswith(door) if door.endswith("/") else path.as_posix() == door
        for door in doors
    )


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_of_our_packages_go_one_way(package: str) -> None:
    forbidden = set(MAY_IMPORT) - MAY_IMPORT[package] - {package} | {"tests"}
    wrong = [
        f"{path} imports {name}"
        for path in modules()
        if path.parts[0] == package
        for name in imported_by((ROOT / path).read_text())
        if name.split(".")[0] in forbidden
    ]
    assert wrong == []


@pytest.mark.parametrize("library", DOORS)
def test_library_is_imported_only_behind_its_doors(library: str) -> None:
    # grpc_health and grpc_reflection are grpc too.
    wrong = [
        f"{path} imports {name}"
        for path in modules()
        for name in imported_by((ROOT / path).read_text())
        if name.split(".")[0] == library or name.startswith(f"{library}_")
        if not is_behind(path, DOORS[library])
    ]
    assert wrong == []


def test_imported_by_sees_imports_inside_functions() -> None:
    source = "import a.b, c\ndef f():\n    from ray.serve import d\n    import deepspeed as e\n"
    assert sorted(imported_by(source)) == ["a.b", "c", "deepspeed", "ray.serve"]


def test_files_directly_in_trainer_shadow_no_other_module() -> None:
    # `deepspeed trainer/main.py` puts trainer/ first on sys.path.
    names = {it.stem for it in (ROOT / "trainer").iterdir() if it.suffix == ".py" or it.is_dir()}
    others = set(sys.stdlib_module_names) | set(packages_distributions())
    assert {"ast", "torch", "deepspeed"} <= others
    assert names & others == set()


def test_top_level_entries_are_known() -> None:
    ignored = [it.strip("/") for it in (ROOT / ".gitignore").read_text().split()]
    entries = {it.name for it in ROOT.iterdir()}
    assert entries >= TOP_LEVEL
    # Hidden ones that are not ours belong to git and editors.
    strange = {
        it
        for it in entries - TOP_LEVEL
        if not it.startswith(".") and not any(fnmatch.fnmatch(it, rule) for rule in ignored)
    }
    assert strange == set()


def test_gitignore_hides_none_of_our_modules() -> None:
    rules = (ROOT / ".gitignore").read_text().split()
    # A rule without a slash in front or in the middle holds in every folder.
    anywhere = [it.strip("/") for it in rules if "/" not in it.rstrip("/")]
    hidden = [
        str(path)
        for path in modules()
        if any(fnmatch.fnmatch(part, rule) for part in path.parts for rule in anywhere)
    ]
    assert hidden == []


@pytest.mark.parametrize("path", modules(), ids=str)
def test_module_is_not_too_long(path: Path) -> None:
    assert len((ROOT / path).read_text().splitlines()) <= MAX_LINES
