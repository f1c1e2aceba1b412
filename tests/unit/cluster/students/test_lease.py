"""No rank runs when a supervisor may start others."""

from __future__ import annotations

from cluster.students.lease import END_S, LEASE_S, LOST_S, Lease


def test_lease_counts_from_the_moment_of_the_token_and_not_of_the_beat() -> None:
    lease = Lease()
    token = lease.issue(100.0)
    # However late a beat with it arrives.
    assert lease.until(token) == 100.0 + LEASE_S


def test_token_renews_once_and_older_ones_not_at_all() -> None:
    lease = Lease()
    first, second = lease.issue(1.0), lease.issue(2.0)
    assert lease.until(second) == 2.0 + LEASE_S
    assert lease.until(second) is None
    assert lease.until(first) is None


def test_ranks_have_ended_before_their_node_counts_as_lost() -> None:
    assert LEASE_S + END_S < LOST_S < 30.0
