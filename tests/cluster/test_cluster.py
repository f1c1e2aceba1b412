"""One cluster from its first `up` to its `down`, and all that happens to it meanwhile.

The tests are one story: each goes on where the one before it ended, and the first that fails ends
it (`make cluster-test`). A student of two ranks on two hosts trains from `train` to `stop`; at the
end its losses are compared with those of two ranks on one host, to which nothing happens.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.cluster_story import (
    FILE,
    HEAD,
    LAPTOP,
    RUN,
    SETTINGS,
    STUDENTS,
    TEACHERS,
    Story,
    bring,
)
from tests.support.served_teachers import FittedTeachers, serving_without_ray
from tests.support.student_runs import loss_curve, run_student

pytestmark = pytest.mark.timeout(1800)
# Ten minutes when it is to be seen that it may be as long: CONKD_HEAD_AWAY_S=600.
HEAD_AWAY_S = float(os.environ.get("CONKD_HEAD_AWAY_S", "180"))
# Students' links, so that the run is still at it when the last event is over.
LINK_MBIT = 6.0
CHECKPOINT_EVERY = 50
ENDLESS = 1_000_000
LINK_CUT_S = 10.0
# The bars: back in training after a student host, and after a teacher host with a second one.
STUDENT_BACK_S, TEACHER_STALL_S = 90.0, 20.0
ALIKE, ALIKE_ON_OTHER_RANKS = 1e-5, 1e-4
COMPARE_S = 900.0
ALL = {"head": [HEAD], "teacher": list(TEACHERS), "student": list(STUDENTS)}


def raylets(story: Story) -> dict[str, list[int]]:
    return {name: story.processes(name, "raylet/raylet") for name in (*TEACHERS, *STUDENTS)}


def all_joined(story: Story) -> bool:
    return story.nodes() == ALL


def test_up_starts_ray_on_every_machine_as_what_it_is(story: Story) -> None:
    story.command("up", FILE)
    story.wait_until("all machines have joined", lambda: all_joined(story), limit_s=240)
    # A student cannot pass for a teacher.
    for name in STUDENTS:
        assert not (story.lab[name].home / "conkd-tls-server").exists()
        assert (story.lab[name].home / "conkd-tls" / "ca.pem").exists()


def test_teachers_spread_over_the_teacher_hosts(
    story: Story, teachers: FittedTeachers, prepared_dir: Path
) -> None:
    folders = (prepared_dir, teachers.dialogue, teachers.recommendation)
    story.command("push", *bring(story.lab[LAPTOP], *folders))
    story.command("teachers", "up", "dialogue=2,recommendation=1", "--deterministic")
    assert story.replicas("dialogue") == list(TEACHERS)
    assert len(story.replicas("recommendation")) == 1


def test_students_train_on_two_hosts(story: Story) -> None:
    story.command(
        *("train", "--detach", "--nodes", "2", "--slots", "1", "--name", RUN),
        *("--config", "trainer/configs/synthetic.yaml", "data=prepared", *SETTINGS),
        *(f"train.steps={ENDLESS}", f"train.checkpoint_every={CHECKPOINT_EVERY}"),
    )
    story.wait_until("the first steps", lambda: story.step >= 5, limit_s=240)
    for name in STUDENTS:
        story.lab[name].limit(rate_mbit=LINK_MBIT)
    assert story.supervisor["ranks"] == 2
    assert sorted(story.supervisor["nodes"]) == sorted(story.lab[it].address for it in STUDENTS)


def test_a_link_that_is_cut_and_healed_costs_no_step(story: Story) -> None:
    since = story.note("link cut")
    story.lab[TEACHERS[0]].unplug()
    time.sleep(LINK_CUT_S)
    story.lab[TEACHERS[0]].plug_in()
    story.wait_for_steps(10, limit_s=120)
    assert story.longest_step_s(since) < (LINK_CUT_S + TEACHER_STALL_S) * story.slowness
    assert all_joined(story)


def test_teachers_are_scaled_to_three_and_to_one_without_a_stall(story: Story) -> None:
    since = story.note("1 -> 3 -> 1")
    for count in (1, 3, 1):
        story.command("teachers", "scale", f"dialogue={count}")
        assert len(story.replicas("dialogue")) == count
    story.wait_for_steps(5, limit_s=60)
    assert story.longest_step_s(since) < TEACHER_STALL_S * story.slowness


def test_replicas_are_rolled_under_the_run(story: Story) -> None:
    since = story.note("roll")
    story.command("teachers", "scale", "dialogue=2")
    story.command("teachers", "roll")
    story.wait_for_steps(5, limit_s=60)
    assert story.longest_step_s(since) < TEACHER_STALL_S * story.slowness


def test_a_second_up_disturbs_nobody(story: Story) -> None:
    since, before = story.note("second up"), raylets(story)
    head = story.processes(HEAD, "gcs_server")
    story.command("up", FILE)
    story.wait_for_steps(5, limit_s=60)
    assert raylets(story) == before
    assert story.processes(HEAD, "gcs_server") == head != []
    assert story.longest_step_s(since) < TEACHER_STALL_S * story.slowness


def test_a_teacher_host_without_power_is_replaced_by_the_other_and_comes_back(
    story: Story,
) -> None:
    (films,) = story.replicas("recommendation")
    lost = next(it for it in TEACHERS if it != films)
    since = story.note("teacher host off")
    story.lab[lost].power_off()
    story.wait_for_steps(10, limit_s=120)
    assert story.longest_step_s(since) < TEACHER_STALL_S * story.slowness
    story.wait_until("it is lost", lambda: lost not in story.nodes()["teacher"], limit_s=60)
    story.lab[lost].power_on()
    story.wait_until("it has joined again", lambda: all_joined(story), limit_s=180)


def test_the_head_may_be_away_and_up_mends_it(story: Story) -> None:
    since, before = story.note("head off"), raylets(story)
    story.lab[HEAD].power_off()
    time.sleep(HEAD_AWAY_S)
    away = story.step
    # They train on all the while.
    story.wait_for_steps(5, limit_s=60)
    assert story.longest_step_s(since) < TEACHER_STALL_S * story.slowness
    story.lab[HEAD].power_on()
    story.command("up", FILE)
    story.wait_until("all machines are there", lambda: all_joined(story), limit_s=120)
    story.wait_until("teachers answer", lambda: bool(story.replicas("dialogue")), limit_s=120)
    assert raylets(story) == before
    assert story.step > away > since
    assert story.supervisor["attempt"] == 1
    story.command("teachers", "scale", "dialogue=1")


def test_a_student_host_without_power_is_left_out_and_taken_in_again(story: Story) -> None:
    story.wait_for_steps(CHECKPOINT_EVERY, limit_s=240)
    lost = STUDENTS[1]
    since = story.note("student host off")
    story.lab[lost].power_off()
    started_s = time.monotonic()
    story.wait_until("one rank trains", lambda: story.supervisor["ranks"] == 1, limit_s=90)
    story.wait_until("it goes on", lambda: story.step > since, limit_s=STUDENT_BACK_S + 60)
    back_s = time.monotonic() - started_s
    assert back_s < (STUDENT_BACK_S + 60) * story.slowness
    story.lab[lost].power_on()
    story.lab[lost].limit(rate_mbit=LINK_MBIT)
    story.wait_until("two ranks train", lambda: story.supervisor["ranks"] == 2, limit_s=300)
    story.wait_for_steps(5, limit_s=120)


def test_the_losses_are_those_of_two_ranks_on_one_host(
    story: Story, teachers: FittedTeachers, prepared_dir: Path, tmp_path: Path
) -> None:
    story.command("stop", RUN)
    steps = story.steps
    assert [it["step"] for it in steps] == list(range(1, len(steps) + 1))
    with serving_without_ray(tmp_path, teachers, deterministic=True) as service:
        settings = (*SETTINGS, f"train.steps={len(steps)}", "train.checkpoint_every=100000")
        done = run_student(
            prepared_dir,
            tmp_path / "run",
            *settings,
            f"teachers.directory={service.directory}",
            timeout_s=COMPARE_S * story.slowness,
        )
        assert done.returncode == 0, done.stderr
    expected, losses = loss_curve(tmp_path / "run"), [it["loss"] for it in steps]
    changed = story.events["student host off"] - CHECKPOINT_EVERY
    assert losses[:changed] == pytest.approx(expected[:changed], rel=ALIKE)
    assert losses[changed:] == pytest.approx(expected[changed:], rel=ALIKE_ON_OTHER_RANKS)


def test_down_refuses_to_lose_a_run_and_then_leaves_every_host_clean(story: Story) -> None:
    refused = story.ended("down", FILE, check=False)
    assert refused.returncode == 2
    assert f"{RUN}: not pulled" in refused.stderr
    story.command("pull", RUN, "build/home")
    home = story.lab[LAPTOP].home / "conkd" / "build" / "home"
    assert (home / "metrics.jsonl").is_file()
    story.command("down", FILE)
    for name in (HEAD, *TEACHERS, *STUDENTS):
        assert story.processes(name, "ray|conkd") == []
        home = story.lab[name].home
        left = ("conkd-tls", "conkd-tls-server", "ray_bootstrap_key.pem", ".ray/auth_token")
        assert not [it for it in left if (home / it).exists()]
        assert not (home.parent / "tmp" / "ray").exists()
