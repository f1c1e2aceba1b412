from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from trainer.common.plugins import with_plugins


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    module = ModuleType("plugin_of_a_test")
    vars(module)["SHAPES"] = {"square": 4}
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module.__name__


def test_entries_of_a_plugin_follow_ours_and_leave_our_table_as_it_was(plugin: str) -> None:
    ours = {"triangle": 3}
    assert with_plugins(ours, [plugin], "SHAPES") == {"triangle": 3, "square": 4}
    assert ours == {"triangle": 3}
    assert with_plugins(ours, [plugin], "COLOURS") == ours


def test_entry_with_a_taken_name_is_refused(plugin: str) -> None:
    with pytest.raises(ValueError, match=r"must have a name of its own, got square.*Rename"):
        with_plugins({"square": 4}, [plugin], "SHAPES")


def test_plugin_that_cannot_be_imported_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got 'no_such_module_anywhere': .*PYTHONPATH"):
        with_plugins({}, ["no_such_module_anywhere"], "SHAPES")


def test_plugin_that_is_broken_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: str
) -> None:
    (tmp_path / "broken_plugin_of_a_test.py").write_text("SHAPES = {")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("broken_plugin_of_a_test", "", ".x"):
        with pytest.raises(ValueError, match="must be a module that Python can import"):
            with_plugins({}, [name], "SHAPES")
    vars(sys.modules[plugin])["SHAPES"] = ["square"]
    with pytest.raises(
        ValueError, match=f"SHAPES of plugin {plugin} must be a dictionary, got list"
    ):
        with_plugins({}, [plugin], "SHAPES")
