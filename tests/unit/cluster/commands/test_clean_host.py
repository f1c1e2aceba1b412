from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from cluster.commands import clean_host


def test_it_imports_nothing_but_the_standard_library() -> None:
    imported = {
        node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(Path(clean_host.__file__).read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert {it.partition(".")[0] for it in imported} <= sys.stdlib_module_names


def test_program_that_is_sent_is_python_with_its_arguments() -> None:
    program = clean_host.text([7, 3], files=True)
    last = ast.parse(program).body[-1]
    assert ast.unparse(last) == "print(json.dumps(clean(Path.home(), [3, 7], files=True)))"


def test_keys_and_tokens_go_and_sources_stay(tmp_path: Path) -> None:
    home, ray, ssh = (tmp_path / it for it in ("home", "ray", "ray_ssh_4813494d13"))
    for name in ("conkd-tls/token", "conkd-tls-server/server.key", ".ray/auth_token", "other"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
    (home / "conkd" / "trainer").mkdir(parents=True)
    (ray / "session").mkdir(parents=True)
    ssh.mkdir()
    removed, kept = clean_host.remove_files(home, tmp_path)
    keys = [home / ".ray/auth_token", home / "conkd-tls", home / "conkd-tls-server"]
    assert (removed, kept) == ([str(it) for it in (*keys, ray, ssh)], [])
    assert sorted(it.name for it in home.iterdir()) == [".ray", "conkd", "other"]
    assert clean_host.remove_files(home, tmp_path) == ([], [])


def test_keys_that_cannot_be_removed_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, folder = tmp_path / "ray_bootstrap_key.pem", tmp_path / "conkd-tls"
    key.write_text("x")
    folder.mkdir()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(clean_host.shutil, "rmtree", lambda *_, **__: None)
    assert clean_host.remove_files(tmp_path, tmp_path) == ([], [str(key), str(folder)])


@pytest.mark.parametrize("name", ["gpu.yaml", "local.yaml"])
def test_line_that_leaves_bashrc_is_the_one_that_the_cluster_adds(name: str) -> None:
    cluster = Path(clean_host.__file__).parents[1]
    assert f"line='{clean_host.EXPORT}" in (cluster / name).read_text()


def test_only_lines_of_the_cluster_leave_bashrc(tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text(
        "alias ll='ls -l'\n"
        "export RAY_AUTH_MODE=token CONKD_SHARED=/shared PATH=$HOME/conkd/.venv/bin:$PATH\n"
        "export CONKD_CLUSTER=mine.yaml\n"
    )
    assert clean_host.remove_files(tmp_path, tmp_path) == ([str(tmp_path / ".bashrc")], [])
    left = "alias ll='ls -l'\nexport CONKD_CLUSTER=mine.yaml\n"
    assert (tmp_path / ".bashrc").read_text() == left


def test_children_of_a_process_are_all_below_it() -> None:
    parents = {1: 0, 2: 1, 3: 2, 4: 3, 5: 1}
    assert clean_host._with_children({2}, parents) == {2, 3, 4}
    assert clean_host._line_above(4, parents) == {4, 3, 2, 1, 0}
