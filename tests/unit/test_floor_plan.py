"""The floor plan, read from the sources: who may import whom, and what is where."""

from __future__ import annotations

import ast
import fnmatch
import functools
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED = "teacher_pb2"
MAX_LINES = 400
# The architecture. A room is a folder; it imports only from floors in the lines above. The files
# directly in trainer/ or teacher_server/ are a room too: the story that uses the other rooms.
FLOORS = (
    ("trainer/common",),
    ("protos", "trainer/security", "cluster/launch"),
    ("trainer/config", "protos/conformance"),
    ("trainer/data", "trainer/checkpoints"),
    ("trainer/kinds",),
    ("trainer/data/corpora", "trainer/models", "trainer/loss", "trainer/scoring"),
    ("trainer/engine", "trainer/telemetry", "trainer/plan"),
    ("trainer/target_cache", "trainer/evaluation"),
    ("trainer/teacher_client", "trainer/ablation"),
    ("trainer", "trainer/targets"),
    ("trainer/pretrain", "teacher_server/scoring"),
    ("teacher_server/replica",),
    ("teacher_server/fleet", "cluster/netns", "cluster/machines"),
    ("teacher_server", "cluster/grafana", "cluster/students", "cluster/aws", "cluster"),
    ("cluster/bench/fleet", "cluster/bench", "cluster/capacity", "cluster/proof"),
    tuple(
        f"cluster/bench/{name}"
        for name in ("chaos", "help", "loss", "memory", "scaling", "service", "step", "wire")
    ),
    ("cluster/head",),
    ("cluster/commands",),
)
# An entry point may import the rooms of its package.
ENTRY = "__main__.py"
# What is heavy, or binds us to one engine, stays behind a few doors: a room, or one file of it.
DOORS = {
    "deepspeed": ("trainer/engine/",),
    "ray": ("teacher_server/fleet/", "cluster/"),
    "torch_geometric": ("trainer/models/rgcn.py", "trainer/models/word_conv.py"),
    "prometheus_client": ("trainer/telemetry/exposition.py", "trainer/telemetry/metrics_http.py"),
    "opentelemetry": ("trainer/telemetry/spans.py",),
    "lmdb": ("trainer/target_cache/store.py",),
    "boto3": ("cluster/aws/",),
    "botocore": ("cluster/aws/",),
    "grpc": (
        "trainer/security/channels.py",
        "trainer/teacher_client/streams.py",
        "teacher_server/replica/",
        "teacher_server/fleet/directory_server.py",
        # What a teacher of another make needs, and is checked by.
        "protos/lease_client.py",
        "protos/conformance/",
        "cluster/bench/service/load.py",  # sends as fast as it is answered, without our client
    ),
}
# What takes a second or more to import: `--help` and errors of a command line must not wait for it.
SLOW = {
    "torch",
    "transformers",
    "deepspeed",
    "ray",
    "grpc",
    "torch_geometric",
    "matplotlib",
    "lmdb",
    "boto3",
    "botocore",
}
PACKAGES = ("protos", "trainer", "teacher_server", "cluster")
MAX_STORY_FILES = 8
TOP_LEVEL = {
    *(".ci", ".github", ".gitignore", ".pre-commit-config.yaml"),
    *(
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "constraints.txt",
        "pyproject.toml",
    ),
    *("docs", "tests", *PACKAGES),
}


FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> list[Path]:
    """Our own modules, relative to the root."""
    found = (it.relative_to(ROOT) for name in PACKAGES for it in (ROOT / name).rglob("*.py"))
    return sorted(it for it in found if not it.name.startswith(GENERATED))


@functools.cache
def imports_of(path: Path) -> tuple[str, ...]:
    """Full names of all modules that a module imports; the path is relative to the root."""
    return tuple(imported_by((ROOT / path).read_text()))


def imported_by(source: str) -> Iterator[str]:
    """Full names of all modules that a source imports, wherever it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"imports must be absolute, got one at line {node.lineno}"
            yield node.module or ""


@functools.cache
def room_of(path: Path) -> str:
    """The innermost folder of the table that holds a module."""
    return next(it for it in map(Path.as_posix, path.parents) if it in FLOOR_OF)


def imported_rooms(path: Path) -> Iterator[tuple[str, str]]:
    """Every module of ours that a module imports, and its room."""
    for name in imports_of(path):
        if name.split(".")[0] in PACKAGES and GENERATED not in name:
            yield name, room_of(Path(*name.split("."), "__init__.py"))


def is_behind(path: Path, doors: tuple[str, ...]) -> bool:
    return path.as_posix().startswith(doors)


def test_every_folder_with_code_is_a_room_of_the_table() -> None:
    folders = {path.parent.as_posix() for path in modules()}
    assert folders == set(FLOOR_OF)


@pytest.mark.parametrize("room", FLOOR_OF)
def test_a_room_imports_only_from_lower_floors(room: str) -> None:
    wrong = [
        f"{path} imports {name}"
        for path in modules()
        if room_of(path) == room and path.name != ENTRY
        for name, other in imported_rooms(path)
        if other != room and FLOOR_OF[other] >= FLOOR_OF[room]
    ]
    assert wrong == []


def test_no_package_imports_tests() -> None:
    wrong = [
        f"{path} imports {name}"
        for path in modules()
        for name in imports_of(path)
        if name.split(".")[0] == "tests"
    ]
    assert wrong == []


def test_no_test_module_imports_another() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "tests").rglob("*.py")
        for name in imports_of(path.relative_to(ROOT))
        if name.startswith(("tests.unit", "tests.system"))
    ]
    assert wrong == []


def test_only_the_story_lies_directly_in_trainer() -> None:
    story = [path for path in modules() if path.parent == Path("trainer")]
    assert len([path for path in story if path.name != "__init__.py"]) <= MAX_STORY_FILES


@pytest.mark.parametrize("library", DOORS)
def test_library_is_imported_only_behind_its_doors(library: str) -> None:
    # grpc_health and grpc_reflection are grpc too.
    wrong = [
        f"{path} imports {name}"
        for path in modules()
        for name in imports_of(path)
        if name.split(".")[0] == library or name.startswith(f"{library}_")
        if not is_behind(path, DOORS[library])
    ]
    assert wrong == []


@functools.cache
def imports_at_import(path: Path) -> tuple[str, ...]:
    """As `imports_of`, of what is imported when the module is."""
    return tuple(at_import((ROOT / path).read_text()))


def at_import(source: str) -> Iterator[str]:
    """Full names of all modules that are imported when a module is: none of its functions runs."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
            # `from package import module` imports the module too.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def slow_imports(path: Path, seen: set[Path]) -> Iterator[str]:
    """Slow libraries that are imported with a module of ours, and by which."""
    seen.add(path)
    for name in imports_at_import(path):
        if name.split(".")[0] in SLOW:
            yield f"{path} imports {name}"
        for other in (
            Path(*name.split(".")).with_suffix(".py"),
            Path(*name.split("."), "__init__.py"),
        ):
            if name.split(".")[0] in PACKAGES and (ROOT / other).is_file() and other not in seen:
                yield from slow_imports(other, seen)


def entry_points() -> list[Path]:
    """Modules that users run."""
    hidden = (
        *(f"cluster/bench/{room}/" for room in ("chaos", "fleet", "scaling", "step")),
        *("cluster/proof/student.py", "cluster/proof/in_process_student.py"),
    )
    return [
        path
        for path in modules()
        if '__name__ == "__main__"' in (ROOT / path).read_text()
        and not path.as_posix().startswith(hidden)
    ]


@pytest.mark.parametrize("path", entry_points(), ids=str)
def test_an_entry_point_parses_before_it_imports_what_is_slow(path: Path) -> None:
    assert list(slow_imports(path, set())) == []


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


def test_no_module_is_too_long() -> None:
    lengths = {str(path): len((ROOT / path).read_text().splitlines()) for path in modules()}
    assert {path: length for path, length in lengths.items() if length > MAX_LINES} == {}
