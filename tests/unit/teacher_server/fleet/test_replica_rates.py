"""What `status` shows of replicas: rates by hand, and real replicas asked over gRPC."""

from __future__ import annotations

import pytest

from protos.teacher_pb2 import Endpoint, ReplicaStats
from teacher_server.fleet.console import outside_teachers, status_page
from teacher_server.fleet.options import parse
from teacher_server.fleet.replica_rates import (
    Rates,
    rates,
    scrape_targets,
)
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


def test_rates_of_a_first_look_are_since_the_start() -> None:
    seen = rates(NOW)
    assert (seen.requests_per_s, seen.queue_s) == (11 / 12, 0.25)


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
    shown = [line.split() for line in page.splitlines() if "retiring" not in line]
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
