"""What `status` shows of replicas: rates by hand, and real replicas asked over gRPC."""

from __future__ import annotations

import dataclasses

import pytest

from protos.teacher_pb2 import Endpoint, ReplicaStats, RunStats
from teacher_server.fleet.console import outside_teachers, status_page
from teacher_server.fleet.options import parse
from teacher_server.fleet.replica_rates import Rates, as_fields, rates, scrape_targets
from teacher_server.fleet.run_shares import run_tables, run_totals
from trainer.common.errors import InputError

BEFORE = ReplicaStats(
    replica_id="a",
    uptime_s=10,
    counters={"blocks": 5, "positions": 50, "queued": 5, "queue_s": 1},
)
NOW = ReplicaStats(
    replica_id="a",
    uptime_s=12,
    counters={
        **{"blocks": 8, "invalid": 1, "failed": 2, "positions": 80, "queued": 10, "queue_s": 2.5}
    },
    gauges={"in_flight": 3, "oldest_wait_s": 0.25},
)


# What `status --json` gives of each replica under `stats`, among others.
STATUS_KEYS = {
    *("replica_id", "uptime_s", "blocks", "invalid", "failed", "abandoned", "positions"),
    *("reply_bytes", "queued", "queue_s", "rounds", "forward_s", "streams", "in_flight"),
    *("waiting", "oldest_wait_s", "metrics_address"),
}
NOTHING_SHOWN = {
    **{"directory": "127.0.0.1:50051", "directory_state": "RUNNING", "ray_address": "auto"},
    **{"kinds": {}, "retiring": {}, "unrecorded": {}, "outside": []},
}
PACE = {"target_queue_s": 0.05, "idle_s": 60.0}
KIND = {
    "state": "RUNNING",
    "target": 2,
    "min": 2,
    "max": 2,
    "autoscaling": None,
    "problem": "",
    "replicas": [],
}


def test_rates_are_of_what_was_done_between_two_looks() -> None:
    assert rates(NOW, BEFORE) == Rates(requests_per_s=3.0, positions_per_s=15.0, queue_s=0.3)


def test_rates_of_a_first_look_are_over_the_last_minute_where_a_replica_tells_of_it() -> None:
    seen = rates(NOW)
    assert (seen.requests_per_s, seen.queue_s) == (11 / 12, 0.25)
    recent = {"blocks": 120.0, "positions": 600.0, "queued": 100.0, "queue_s": 5.0}
    told = ReplicaStats(
        replica_id="a", uptime_s=900, counters=NOW.counters, recent_s=60, recent=recent
    )
    minute = Rates(requests_per_s=2.0, positions_per_s=10.0, queue_s=0.05)
    assert rates(told) == minute
    assert as_fields(told)["rates"] == {"over_s": 60, **dataclasses.asdict(minute)}
    lines = status_page(NOTHING_SHOWN, {"a": told}, {}).splitlines()
    assert lines[-1] == "Rates      over the last minute"
    lines = status_page(NOTHING_SHOWN, {"a": told, "b": NOW}, {}).splitlines()
    assert lines[-1] == (
        "Rates      over the last minute; of b, which tell no more: since the start"
    )


def test_rates_while_nothing_leaves_the_queue_show_the_wait_of_the_oldest() -> None:
    gauges = {"oldest_wait_s": 2.25}
    stuck = ReplicaStats(uptime_s=14, counters=NOW.counters, gauges=gauges)
    seen = rates(stuck, NOW)
    assert (seen.requests_per_s, seen.queue_s) == (0.0, 2.25)


def test_scrape_targets_are_the_replicas_with_metrics() -> None:
    replicas = [
        ReplicaStats(replica_id="b", metrics_address="10.0.0.1:9"),
        ReplicaStats(replica_id="c"),
        ReplicaStats(replica_id="a", metrics_address="10.0.0.1:8"),
    ]
    assert scrape_targets(replicas) == [
        {"targets": ["10.0.0.1:8"], "labels": {"replica": "a"}},
        {"targets": ["10.0.0.1:9"], "labels": {"replica": "b"}},
    ]


def test_status_page_shows_the_rates_of_each_replica() -> None:
    row = {"replica_id": "a", "state": "RUNNING", "pid": 7, "address": "127.0.0.1:5"}
    content = {
        "directory": "127.0.0.1:50051",
        "directory_state": "RUNNING",
        "ray_address": "127.0.0.1:6379",
        "kinds": {
            "dialogue": KIND | {"replicas": [row]},
            "recommendation": KIND
            | {"state": "DEPLOYING", "target": 1, "max": 4, "autoscaling": PACE}
            | {"problem": "InputError: no weights"},
        },
        "retiring": {"dialogue.2": KIND | {"replicas": [row | {"replica_id": "o"}]}},
        "unrecorded": {"dialogue.3": KIND | {"replicas": [row | {"replica_id": "u"}]}},
        "outside": outside_teachers(
            [
                Endpoint(kind="dialogue", replica_id="a", address="127.0.0.1:5"),
                Endpoint(kind="bigram", replica_id="go", address="127.0.0.1:6", model="Go"),
            ],
            {"a"},
        ),
    }
    assert [(it["replica_id"], it["model"]) for it in content["outside"]] == [("go", "Go")]
    page = status_page(content, {"a": NOW}, {"a": BEFORE})
    retiring = [line.split() for line in page.splitlines() if "retiring" in line]
    assert retiring == [["dialogue", "retiring", "RUNNING", "o", "7", "127.0.0.1:5"]]
    unrecorded = [line.split() for line in page.splitlines() if "unrecorded" in line]
    assert unrecorded == [["dialogue", "unrecorded", "RUNNING", "u", "7", "127.0.0.1:5"]]
    others = ("retiring", "unrecorded")
    shown = [line.split() for line in page.splitlines() if not any(it in line for it in others)]
    lines = {words[0]: words for words in shown}
    assert lines["dialogue"] == [
        *("dialogue", "2", "RUNNING", "a", "7", "127.0.0.1:5", "3.0", "15", "300.0", "ms", "3")
    ]
    assert "DEPLOYING" in lines["recommendation"]
    assert lines["bigram"] == ["bigram", "outside", "go", "127.0.0.1:6"]
    assert "Rates      between the last two looks" in page
    assert "recommendation: autoscaled between 2 and 4, to wait 50 ms" in page
    assert "recommendation: a replica does not start: InputError: no weights" in page
    narrow = status_page(content, {"a": NOW}, {"a": BEFORE}, width=80)
    for value in ("dialogue", "RUNNING", "127.0.0.1:5", "300.0 ms", "not announced"):
        assert value in narrow
    assert max(map(len, narrow.splitlines())) <= 80


def test_status_in_two_formats_at_once_is_refused() -> None:
    with pytest.raises(InputError, match="--watch must be left out beside --json"):
        parse(["status", "--json", "--watch"])
    with pytest.raises(InputError, match=r"--watch must be a number in \[0.2, 3600\], got 0"):
        parse(["status", "--watch", "0"])


def stats_of(replica_id: str, **device_s: float) -> ReplicaStats:
    return ReplicaStats(
        replica_id=replica_id,
        uptime_s=5,
        runs={
            run_id.replace("_", "-"): RunStats(
                counters={
                    **{"requests": 1200, "positions": 34_567, "request_bytes": 999},
                    **{"reply_bytes": 2_500_000, "device_s": seconds},
                }
            )
            for run_id, seconds in device_s.items()
        },
    )


def test_run_totals_are_summed_over_replicas_and_counts_are_integers() -> None:
    totals = run_totals([stats_of("a", x=1.5, y=0.25), stats_of("b", x=2.0)])
    assert totals["x"] == {
        **{"requests": 2400, "positions": 69_134, "request_bytes": 1998},
        **{"reply_bytes": 5_000_000, "device_s": 3.5},
    }
    assert totals["y"]["device_s"] == 0.25
    assert isinstance(totals["y"]["requests"], int)
    assert as_fields(stats_of("a", x=1.5))["runs"] == {
        "x": {
            **{"requests": 1200, "positions": 34_567, "request_bytes": 999},
            **{"reply_bytes": 2_500_000, "device_s": 1.5},
        }
    }


def test_run_tables_show_totals_and_shares_of_what_came_since_the_look_before() -> None:
    now = {"a": stats_of("a", redial_mini=5.0, other=4.0), "b": stats_of("b", redial_mini=3.0)}
    before = {"a": stats_of("a", redial_mini=4.0, other=1.0), "b": stats_of("b", redial_mini=3.0)}
    replicas_of = {"dialogue": ["a", "b"], "recommendation": ["c"]}
    (table,) = run_tables(replicas_of, now, before, width=80)
    assert [line.split() for line in table.splitlines() if "---" not in line] == [
        ["dialogue,", "by", "run"],
        ["run", "requests", "rows", "asked", "sent", "device", "share"],
        ["other", "1,200", "34,567", "999", "B", "2.5", "MB", "4.0", "s", "75%"],
        ["redial-mini", "2,400", "69,134", "2.0", "kB", "5.0", "MB", "8.0", "s", "25%"],
    ]
    (since_start,) = run_tables(replicas_of, now, {}, width=80)
    assert since_start.splitlines()[3].split()[0] == "redial-mini"
    assert since_start.splitlines()[3].endswith("67%")


def test_run_tables_fit_eighty_columns_and_name_how_many_are_left_out() -> None:
    many = {f"{'r' * 32}_{number:08x}": 1e6 + number for number in range(14)}
    (table,) = run_tables({"dialogue": ["a"]}, {"a": stats_of("a", **many)}, {}, width=80)
    assert max(map(len, table.splitlines())) <= 80
    assert "1000013.0 s" in table and "1000003.0 s" not in table
    assert table.endswith("... and 4 more: --json has all")
