"""How the memory benchmark measures: against processes whose memory is known."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.bench.memory.rank_memory import (
    Sampler,
    find_ranks,
    status_bytes,
)
from cluster.launch.machine import this_machine
from tests.support.student_runs import ROOT, TINY, student_command
from trainer.plan.memory import CPU_OVERHEAD

HOLDS_100_MIB = """
import sys, time
held = bytearray(100 << 20)
held[:: 4096] = b"x" * len(held[:: 4096])
print("ready", flush=True)
time.sleep(600)
"""


def test_status_of_a_process_tells_what_it_holds() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDS_100_MIB], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        held = status_bytes(holder.pid)
        assert held is not None
        assert 100 << 20 <= held["VmRSS"] <= held["VmHWM"] <= 200 << 20
    finally:
        holder.kill()
        holder.communicate()
    assert status_bytes(holder.pid) is None


def test_ranks_are_found_by_their_environment_once_all_are_there() -> None:
    command = [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"]
    ranks = []
    try:
        for rank in (1, 0):
            environment = {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"}
            child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
            ranks.append(child)
            assert child.stdout is not None
            child.stdout.readline()
            assert find_ranks() == ({0: ranks[1].pid, 1: ranks[0].pid} if rank == 0 else {})
    finally:
        for child in ranks:
            child.kill()
            child.communicate()


@pytest.mark.everything
def test_a_real_run_is_seen_on_both_ranks(prepared_dir: Path, tmp_path: Path) -> None:
    # Steps enough after the third for a sampler that has to share its core.
    settings = ("distill.gamma=0", "train.steps=30", "train.checkpoint_every=30", "zero_stage=3")
    argv = student_command(prepared_dir, tmp_path, *settings, *TINY, "train.batch_size=2")
    environment = {**os.environ, **command_environment()}
    with Sampler(tmp_path, 3) as sampler:
        subprocess.run(argv, cwd=ROOT, env=environment, check=True, capture_output=True)
    measured = sampler.result(2)
    # Almost nothing but the interpreter with torch and DeepSpeed in it: see CPU_OVERHEAD.
    for peak in measured.steps_peak.values():
        assert CPU_OVERHEAD / 2 < peak < CPU_OVERHEAD * 1.5
    assert measured.together <= 2.5 * CPU_OVERHEAD


def command_environment() -> dict[str, str]:
    machine = dataclasses.replace(this_machine(), num_devices=0)
    return {name: it for name, it in machine.environment(2).items() if it is not None}
