"""Declared counters: their names, numbers, documentation and what a scrape shows of them."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import generate_latest

from tests.support.scrapes import samples
from trainer.telemetry.counters import (
    Histogram,
    counter,
    counters_table,
    declarations,
    gauge,
    histogram,
    snapshot,
)
from trainer.telemetry.exposition import registry_of

IN_HAND = {"hand": "left"}


@dataclass
class Counted:
    depth: int = gauge("how deep it is")
    left: int = counter("things of the left", metric="things", labels=IN_HAND)
    right: int = counter("things of the right", metric="things", labels={"hand": "right"})
    work_s: float = counter("seconds of work", start=0.0)
    age_s: Histogram = histogram("age of a thing", (1.0, 2.0), count="aged")
    hidden: int = 0


def counted() -> Counted:
    result = Counted(depth=7, left=2, work_s=0.5)
    for value in (0.5, 1.0, 1.5, 7.0):
        result.age_s.observe(value)
    return result


def test_histogram_counts_each_value_in_the_first_bucket_that_holds_it() -> None:
    age_s = counted().age_s
    assert (age_s.counts, age_s.total) == ([2, 1, 1], 10.0)


def test_snapshot_has_every_declared_number_and_of_a_histogram_sum_and_count() -> None:
    expected = {"depth": 7, "left": 2, "right": 0, "work_s": 0.5, "age_s": 10.0, "aged": 4}
    assert snapshot(counted()) == expected
    assert type(snapshot(Counted(depth=0))["work_s"]) is float


def test_metric_spells_out_the_unit_of_a_field() -> None:
    names = [it.metric for it in declarations(Counted).values()]
    assert names == ["depth", "things", "things", "work_seconds", "age_seconds"]


def test_scrape_shows_every_declared_number_with_its_labels() -> None:
    registry = registry_of("it", {"place": "here"}, lambda: [counted()])
    text = generate_latest(registry).decode()
    here = frozenset({("place", "here")})
    seen = {name: value for (name, labels), value in samples(text).items() if labels == here}
    assert seen == {
        **{"it_depth": 7.0, "it_work_seconds_total": 0.5},
        **{"it_age_seconds_count": 4.0, "it_age_seconds_sum": 10.0},
    }
    assert 'it_things_total{hand="left",place="here"} 2.0' in text
    assert 'it_age_seconds_bucket{le="2.0",place="here"} 3.0' in text
    assert "# HELP it_work_seconds_total seconds of work" in text


def test_table_has_a_row_for_each_declared_number() -> None:
    assert counters_table("it", "place", Counted).splitlines() == [
        "| `it_...`, label `place` | |",
        "|---|---|",
        "| `depth` | how deep it is |",
        '| `things_total{hand="left"}` | things of the left |',
        '| `things_total{hand="right"}` | things of the right |',
        "| `work_seconds_total` | seconds of work |",
        "| `age_seconds` | histogram of the age of a thing |",
    ]
