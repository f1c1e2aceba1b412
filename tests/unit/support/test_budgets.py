from __future__ import annotations

import pytest

from tests.support import budgets
from tests.support.budgets import SHARED, budget_of, overruns

UNIT, SYSTEM = "tests/unit/a/test_b.py", "tests/system/test_c.py"


@pytest.fixture(autouse=True)
def known_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"tests/unit/": (10.0, 20.0), "tests/system/": (30.0, 60.0), SHARED: (5.0, 5.0)}
    monkeypatch.setattr(budgets, "BUDGETS", {**known, SYSTEM: (100.0, 200.0)})


def test_budget_is_that_of_the_file_or_of_its_folder() -> None:
    assert budget_of(SYSTEM, everything=False) == 100.0
    assert budget_of("tests/system/test_d.py", everything=True) == 60.0
    assert budget_of(UNIT, everything=False) == 10.0


def test_overrun_names_the_three_slowest_and_fails_beyond_twice_the_budget() -> None:
    spent = {f"{UNIT}::test_{index}": float(index) for index in range(6)}
    spent |= {f"{SYSTEM}::test_x": 99.0, f"{SHARED}::service": 4.0}
    (found,) = overruns(spent, everything=False, slowness=1.0)
    assert (found.file, found.seconds, found.budget_s, found.fails) == (UNIT, 15.0, 10.0, False)
    assert found.slowest == ("test_5 5.0 s", "test_4 4.0 s", "test_3 3.0 s")
    assert str(found).startswith(f"{UNIT} must take at most 10 s, got 15 s. Its slowest: test_5")
    shorter = overruns(spent, everything=False, slowness=0.7)
    assert {it.file: it.fails for it in shorter} == {UNIT: True, SYSTEM: False, SHARED: False}
    assert overruns(spent, everything=True, slowness=1.0) == []
    assert overruns(spent, everything=False, slowness=2.0) == []
