"""The panels of the Grafana dashboard. A new one is an entry of ROWS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from teacher_server.replica.metrics import PREFIX as TEACHER
from teacher_server.replica.metrics import RUN_PREFIX as RUN
from trainer.telemetry.rank_metrics import PREFIX as STUDENT

BY_RUN = "{{kind}} {{run}}"
BY_REPLICA = "kind, instance"
EACH_RANK, EACH_PROCESS = "{{instance}} rank {{rank}}", "{{job}} {{instance}}"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves over time."""

    title: str
    unit: str
    curves: Mapping[str, str]
    """Legend -> expression."""
    text: str
    most: float | None


def panel(
    title: str, unit: str, curves: Mapping[str, str], text: str = "", *, most: float | None = None
) -> Panel:
    """An entry of the list; `most` ends the axis."""
    return Panel(title=title, unit=unit, curves=curves, text=text, most=most)


def _rate(name: str, label: str) -> str:
    return f'rate({name}{{{label}=~"${label}"}}[$__rate_interval])'


def _teachers(metric: str, by: str = "kind") -> str:
    """Growth per second of a replica's counter, summed over replicas."""
    return f"sum by ({by}) ({_rate(f'{TEACHER}_{metric}', 'kind')})"


def _runs(metric: str) -> str:
    """The same of a counter by run, of all its replicas."""
    return f"sum by (kind, run) ({_rate(f'{RUN}_{metric}', 'kind')})"


def _level(metric: str, of: str = "sum") -> dict[str, str]:
    """A replica's gauge."""
    expression = f'{of} by ({BY_REPLICA}) ({TEACHER}_{metric}{{kind=~"$kind"}})'
    return {"{{kind}} {{instance}}": expression}


def _quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, {_teachers(f'{metric}_bucket', 'le, kind')})"


def _times(metric: str) -> dict[str, str]:
    """A replica's histogram of seconds."""
    mean = f"{_teachers(f'{metric}_sum')} / {_teachers(f'{metric}_count')}"
    quantiles = {f"p{share * 100:.0f}": _quantile(share, metric) for share in (0.5, 0.99)}
    return {f"{{{{kind}}}} {name}": it for name, it in {**quantiles, "mean": mean}.items()}


def _rank(metric: str) -> str:
    """Growth per second of a student's counter, for each rank."""
    return _rate(f"{STUDENT}_{metric}", "rank")


def _ranks(metric: str, per: str = "") -> str:
    """The same over all ranks, by itself or divided by another."""
    return f"sum({_rank(metric)})" + (f" / sum({_rank(per)})" if per else "")


def _process(expression: str) -> dict[str, str]:
    return {EACH_PROCESS: expression}


FILL = f"{_teachers('batch_tokens_total')} / {_teachers('batch_slots_total')}"
COMPRESSION = f"{_teachers('compress_seconds_total')} / {_teachers('forward_seconds_sum')}"
WAIT = f"{_rank('exposed_wait_seconds_total')} / {_rank('step_seconds_total')}"
STREAMS = " - ".join(
    f'{STUDENT}_streams_{name}_total{{rank=~"$rank"}}' for name in ("opened", "ended")
)
HITS, MISSES = _ranks("cache_hits_total"), _ranks("cache_misses_total")

ROWS: Mapping[str, Sequence[Panel]] = {
    "Teachers": (
        panel(
            "Requests",
            "reqps",
            {"{{kind}} {{outcome}}": _teachers("requests_total", "kind, outcome")},
        ),
        panel(
            "Positions",
            "short",
            {"{{kind}}": _teachers("positions_total")},
            "Rows per second of all replies.",
        ),
        panel(
            "Bytes",
            "Bps",
            {
                "{{kind}} replies": _teachers("reply_bytes_total"),
                "{{kind}} requests": _teachers("request_bytes_total"),
            },
        ),
        panel(
            "Queue delay", "s", _times("queue_delay_seconds"), "Wait of a request for its round."
        ),
        panel("Oldest request in the queue", "s", _level("queue_age_seconds", "max")),
        panel("Queue", "short", _level("queue_requests"), "Requests that wait for the device."),
        panel("Queued bytes", "bytes", _level("queue_bytes")),
        panel(
            "Held for replies",
            "bytes",
            _level("held_reply_bytes"),
            "Bytes kept free for replies that are not written yet.",
        ),
        panel("In flight", "short", _level("in_flight"), "Requests read and not answered."),
        panel("Streams", "short", _level("streams")),
        panel(
            "Batch fill",
            "percentunit",
            {"{{kind}}": FILL, "{{kind}} p10 of batches": _quantile(0.1, "batch_fill_ratio")},
            "Ids per padded slot of the device batches.",
            most=1,
        ),
        panel("Forward", "s", _times("forward_seconds"), "Forward and compression of a round."),
        panel("Rounds", "ops", {"{{kind}}": _teachers("rounds_total")}),
        panel(
            "Compression",
            "percentunit",
            {"{{kind}}": COMPRESSION},
            "Share of a round's time in cutting rows down.",
        ),
        panel("Encode", "s", _times("encode_seconds")),
        panel(
            "Device busy",
            "percentunit",
            {"{{kind}} {{instance}}": _teachers("forward_seconds_sum", BY_REPLICA)},
            most=1,
        ),
    ),
    "Runs": (
        panel(
            "Device by run",
            "percentunit",
            {BY_RUN: _runs("device_seconds_total")},
            "Device time per second of all replicas: a run's share of the fleet.",
        ),
        panel("Requests by run", "reqps", {BY_RUN: _runs("requests_total")}),
        panel("Rows by run", "short", {BY_RUN: _runs("positions_total")}),
        panel(
            "Bytes by run",
            "Bps",
            {
                f"{BY_RUN} replies": _runs("reply_bytes_total"),
                f"{BY_RUN} requests": _runs("request_bytes_total"),
            },
        ),
    ),
    "Students": (
        panel("Steps", "ops", {EACH_RANK: _rank("steps_total")}),
        panel(
            "Tokens",
            "short",
            {EACH_RANK: _rank("tokens_total")},
            "Input tokens per second, without padding.",
        ),
        panel(
            "Exposed wait",
            "percentunit",
            {EACH_RANK: WAIT},
            "Share of the time of steps without targets.",
            most=1,
        ),
        panel(
            "Requests and resends",
            "reqps",
            {name: _ranks(f"{name}_total") for name in ("requests", "resends", "hedges")},
        ),
        panel(
            "Streams to replicas",
            "short",
            {EACH_RANK: STREAMS},
            "Open ones of all kinds: 8 of each, or all where fewer are listed.",
        ),
        panel(
            "Replicas put aside",
            "short",
            {EACH_RANK: f'{STUDENT}_quarantined_total{{rank=~"$rank"}}'},
            "Another teacher, vocabulary or contract: the log names each.",
        ),
        panel(
            "Time of an answer",
            "s",
            {
                "whole": _ranks("answer_seconds_total", "requests_total"),
                "in the queue": _ranks("queue_seconds_total", "requests_total"),
                "on the device": _ranks("forward_seconds_total", "requests_total"),
            },
            "Mean over requests, as the students see it.",
        ),
        panel(
            "Received and sent",
            "Bps",
            {
                "replies": _ranks("wire_bytes_total"),
                "answered requests": _ranks("request_bytes_total"),
            },
        ),
        panel(
            "Teacher's tokens per position",
            "short",
            {"all ranks": _ranks("teacher_tokens_total", "positions_total")},
            "Tokens that the dialogue teacher read for each row.",
        ),
        panel(
            "Bytes per position",
            "bytes",
            {
                "replies": _ranks("wire_bytes_total", "positions_total"),
                "requests": _ranks("request_bytes_total", "positions_total"),
            },
            "Of all kinds over the dialogue positions that arrived.",
        ),
        panel(
            "Spared rows",
            "ops",
            {"all ranks": _ranks("spared_rows_total")},
            "Recommendation rows that the gate gives no weight, and that were not asked for.",
        ),
        panel("Cache", "percentunit", {"hits": f"{HITS} / ({HITS} + {MISSES})"}, most=1),
        panel(
            "Cache bytes",
            "Bps",
            {name: _ranks(f"cache_{name}_bytes_total") for name in ("read", "written")},
        ),
        panel(
            "Cache trouble",
            "ops",
            {name: _ranks(f"cache_{name}_total") for name in ("broken", "unwritten")},
        ),
    ),
    "Processes": (
        panel("Memory", "bytes", _process('process_resident_memory_bytes{job=~"$job"}')),
        panel("Processor", "percentunit", _process(_rate("process_cpu_seconds_total", "job"))),
        panel("Open files", "short", _process('process_open_fds{job=~"$job"}')),
    ),
}
