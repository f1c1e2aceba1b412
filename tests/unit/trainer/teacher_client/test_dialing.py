"""Which replicas of a kind a rank dials, as the fleet and its own work change; time is a number."""

from __future__ import annotations

import math

import pytest

from trainer.teacher_client.dialing import (
    GROW_S,
    MAX_STREAMS,
    SHRINK_S,
    STEADY_S,
    STREAMS,
    Dialing,
)
from trainer.teacher_client.replica import Replica
from trainer.teacher_client.subset import Caller, dial_order

CALLER = Caller(run="run-a", rank=1, num_ranks=4)
IDS = [f"d-{number}" for number in range(30)]
ORDER = dial_order(CALLER, IDS, STREAMS)


class Rank:
    """The choice of a rank, and its open streams."""

    def __init__(self, ids: list[str] = IDS, caller: Caller = CALLER) -> None:
        self.dialing = Dialing(caller)
        self.dialing.on_listed(ids)
        self.streams: dict[str, Replica] = {}
        self.aside: set[str] = set()

    def open_(self, *names: str, now_s: float = 0.0) -> None:
        for name in names:
            self.streams[name] = Replica("dialogue", name, f"{name}:1")
            self.dialing.on_open(name, now_s)

    def lose(self, name: str) -> None:
        self.streams.pop(name, None)
        self.dialing.on_lost(name)

    def chosen(self, now_s: float = 0.0) -> list[str]:
        return self.dialing.chosen(self.aside.__contains__, self.streams, now_s)

    def spare(self, now_s: float = 0.0) -> list[str]:
        spare = self.dialing.spare(self.chosen(now_s), self.streams, now_s)
        return [replica.replica_id for replica in spare]

    def look(self, loads: list[int], from_s: float, for_s: float) -> None:
        """Looks every second, the last one `for_s` after the first."""
        for second in range(math.floor(for_s) + 1):
            self.dialing.on_look(loads, from_s + second)


def test_rank_dials_the_first_of_its_order() -> None:
    assert Rank().chosen() == ORDER[:STREAMS]


@pytest.mark.parametrize("listed", [0, 1, STREAMS])
def test_rank_dials_all_of_a_small_fleet(listed: int) -> None:
    assert sorted(Rank(IDS[:listed]).chosen()) == sorted(IDS[:listed])


def test_lost_replica_is_dialed_on_beside_the_next_until_it_is_back_for_a_while() -> None:
    rank = Rank()
    rank.open_(*ORDER[:STREAMS])
    rank.lose(ORDER[2])
    assert rank.chosen() == ORDER[: STREAMS + 1]
    rank.open_(ORDER[STREAMS])
    rank.open_(ORDER[2], now_s=100.0)
    assert rank.chosen(100.0 + STEADY_S - 1) == ORDER[: STREAMS + 1]
    assert rank.spare(100.0 + STEADY_S - 1) == []
    assert rank.chosen(100.0 + STEADY_S) == ORDER[:STREAMS]
    assert rank.spare(100.0 + STEADY_S) == [ORDER[STREAMS]]


def test_connection_that_flaps_keeps_its_replacement() -> None:
    rank = Rank()
    for second in range(30):
        rank.lose(ORDER[0])
        assert rank.chosen(float(second)) == ORDER[: STREAMS + 1]
        rank.open_(ORDER[0], now_s=second + 0.5)
        assert rank.chosen(second + 0.5) == ORDER[: STREAMS + 1]


def test_rank_that_loses_everyone_dials_everyone() -> None:
    rank = Rank()
    for number in range(len(IDS)):
        assert rank.chosen() == ORDER[: number + STREAMS]
        rank.lose(ORDER[number])
    assert rank.chosen() == ORDER


def test_replica_that_was_put_aside_is_replaced_for_good() -> None:
    rank = Rank()
    rank.aside = {*ORDER[:3], ORDER[9]}
    assert rank.chosen() == [*ORDER[3:9], *ORDER[10:12]]


def test_replica_that_stalls_or_answers_badly_is_replaced_while_it_does() -> None:
    rank = Rank()
    rank.open_(*ORDER[:STREAMS])
    rank.streams[ORDER[0]].stalled = True
    rank.streams[ORDER[1]].avoided_until_s = 50.0
    assert rank.chosen(49.0) == ORDER[: STREAMS + 2]
    assert rank.chosen(50.0) == ORDER[: STREAMS + 1]
    rank.streams[ORDER[0]].stalled = False
    assert rank.chosen(50.0) == ORDER[:STREAMS]


def test_rank_whose_whole_fleet_stalls_opens_twice_as_many_streams_as_it_wants() -> None:
    rank = Rank()
    while came := [name for name in rank.chosen() if name not in rank.streams]:
        rank.open_(*came)
        for replica in rank.streams.values():
            replica.stalled = True
    assert [*rank.streams] == ORDER[: 2 * STREAMS]
    # One that is gone is replaced, as it takes nothing.
    rank.lose(ORDER[3])
    assert rank.chosen() == ORDER[: 2 * STREAMS + 1]


def test_stream_beyond_the_choice_stays_until_another_is_open_in_its_place() -> None:
    rank = Rank()
    rank.open_(*ORDER[:STREAMS])
    others = [f"e-{number}" for number in range(60)]
    rank.dialing.on_listed([*IDS, *others])
    chosen = rank.chosen()
    came = [name for name in chosen if name not in rank.streams]
    beyond = [name for name in ORDER[:STREAMS] if name not in chosen]
    assert len(came) == len(beyond) >= 3
    assert rank.spare() == []
    for number, name in enumerate(came, start=1):
        rank.open_(name)
        # The last of the order goes first.
        assert len(rank.spare()) == number
    assert sorted(rank.spare()) == sorted(beyond)


def test_place_of_a_lost_replica_is_kept_for_nobody() -> None:
    rank = Rank()
    rank.open_(*ORDER[: STREAMS + 1])
    rank.lose(ORDER[0])
    assert rank.spare() == []
    rank.open_(ORDER[STREAMS + 1])
    assert rank.spare() == [ORDER[STREAMS + 1]]


def test_rank_that_is_short_dials_one_more_each_time() -> None:
    rank = Rank()
    rank.look([2] * STREAMS, 0.0, GROW_S - 1)
    assert rank.dialing.wanted == STREAMS
    rank.look([2] * STREAMS, GROW_S, 0)
    assert rank.chosen() == ORDER[: STREAMS + 1]
    # Until the new stream is open, that is all.
    rank.look([9] * STREAMS, GROW_S, 5 * GROW_S)
    assert rank.dialing.wanted == STREAMS + 1
    rank.look([2] * (STREAMS + 1), 100.0, GROW_S)
    assert rank.dialing.wanted == STREAMS + 2


def test_rank_whose_streams_idle_at_times_is_not_short() -> None:
    rank = Rank()
    for start_s in range(0, 200, 5):
        rank.look([8] * STREAMS, start_s, 4)
        rank.look([8] * (STREAMS - 1) + [1], start_s + 4.5, 0)
    assert rank.dialing.wanted == STREAMS


@pytest.mark.parametrize(
    ("num_ranks", "num_replicas", "most"),
    [(4, 30, MAX_STREAMS), (1, 30, 30), (64, 100, MAX_STREAMS), (4, 100, 25), (3, 100, 34)],
)
def test_rank_dials_twice_its_subset_at_most_or_its_share_of_the_fleet(
    num_ranks: int, num_replicas: int, most: int
) -> None:
    ids = [f"d-{number}" for number in range(num_replicas)]
    rank = Rank(ids, Caller(run="run-a", num_ranks=num_ranks))
    for turn in range(most):
        rank.look([5] * len(rank.chosen()), 1000.0 * turn, GROW_S)
    assert len(rank.chosen()) == most


def test_rank_dials_one_less_after_a_while_with_fewer_requests_than_streams() -> None:
    rank = Rank()
    rank.look([2] * STREAMS, 0.0, GROW_S)
    rank.look([2] * (STREAMS + 1), 100.0, GROW_S)
    assert rank.dialing.wanted == STREAMS + 2
    # As many requests as streams: neither.
    rank.look([1] * (STREAMS + 2), 200.0, 2 * SHRINK_S)
    assert rank.dialing.wanted == STREAMS + 2
    rank.look([1] * (STREAMS + 1) + [0], 1000.0, SHRINK_S)
    assert rank.dialing.wanted == STREAMS + 1
    rank.look([0] * (STREAMS + 1), 1001.0 + SHRINK_S, 5 * SHRINK_S)
    assert rank.dialing.wanted == STREAMS


def test_fleet_that_shrinks_takes_the_share_of_a_rank_along() -> None:
    rank = Rank([f"d-{number}" for number in range(100)], Caller(run="run-a", num_ranks=4))
    for turn in range(100):
        rank.look([5] * len(rank.chosen()), 1000.0 * turn, GROW_S)
    assert rank.dialing.wanted == 25
    rank.dialing.on_listed(IDS)
    assert rank.dialing.wanted == MAX_STREAMS


def test_rank_that_was_short_of_all_that_were_listed_dials_its_subset_of_more() -> None:
    rank = Rank(IDS[:STREAMS])
    rank.look([9] * STREAMS, 0.0, 5 * GROW_S)
    rank.dialing.on_listed(IDS)
    assert rank.chosen() == ORDER[:STREAMS]


def test_replica_that_is_delisted_and_comes_back_is_in_no_doubt() -> None:
    rank = Rank()
    rank.lose(ORDER[0])
    rank.dialing.on_listed([name for name in IDS if name != ORDER[0]])
    rank.dialing.on_listed(IDS)
    assert rank.chosen() == ORDER[:STREAMS]
