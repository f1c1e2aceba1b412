"""The fleet without Ray, as a test uses it: it is served, hurt, healed and gone."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import psutil

from cluster.bench.fleet.fleet import Served, running_fleet
from cluster.bench.fleet.replay import fingerprint
from tests.support.tiny_teachers import (
    tiny_vocabulary,
    write_dialogue_teacher,
    write_recommendation_teacher,
)
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.examples import Example
from trainer.teacher_client.client import TeacherClient

NOTHING = np.array([], np.int32)
EXAMPLE = Example(
    example_id="a",
    context_ids=np.array([1, 2, 3], np.int32),
    response_ids=np.array([4, 5], np.int32),
    context_entities=np.array([6], np.int32),
    context_words=NOTHING,
    gold_items=NOTHING,
)


def imports_ray(pid: int) -> bool:
    return any("/ray/" in it.path for it in psutil.Process(pid).memory_maps())


def test_running_fleet_answers_after_a_kill_and_a_fault_and_ends_whole(tmp_path: Path) -> None:
    vocabulary = tiny_vocabulary()
    folders = {"dialogue": tmp_path / "d", "recommendation": tmp_path / "r"}
    write_dialogue_teacher(folders["dialogue"], vocabulary)
    write_recommendation_teacher(folders["recommendation"], vocabulary)
    served = Served(folders=folders, num_replicas={"dialogue": 2})
    with running_fleet(served, tmp_path / "run") as fleet:
        assert fleet.settings == (f"teachers.directory={fleet.directory}",)
        replicas = fleet.replicas()
        assert [it.kind for it in replicas] == ["dialogue", "dialogue", "recommendation"]
        client = TeacherClient(
            TeachersConfig(directory=fleet.directory),
            DistillConfig(),
            vocabulary=vocabulary,
            graph_digest="tiny-graph",
        )

        def dialogue_rows() -> str:
            return fingerprint(client.submit([EXAMPLE]).result()["dialogue"])

        before = dialogue_rows()
        asyncio.run(fleet.kill(replicas[0]))
        assert dialogue_rows() == before
        asyncio.run(fleet.heal())
        assert len(fleet.replicas("dialogue")) == 2
        fleet.inject(replicas[1], "garbage")
        assert dialogue_rows() == before
        client.close()
        pids = [it.child.pid for it in fleet.replicas()]
        assert all(map(psutil.pid_exists, pids))
        assert not any(map(imports_ray, pids))
    assert not any(map(psutil.pid_exists, pids))
