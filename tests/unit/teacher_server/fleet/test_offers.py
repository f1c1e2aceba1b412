"""What nodes offer: those that run, types that may be started, and machines that are awaited."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from teacher_server.fleet.offers import Offers, check_offers, read_offers
from teacher_server.fleet.room import ReplicaNeed
from trainer.common.errors import InputError

HEAD = {"node:__internal_head__": 1.0, "memory": 1e9}
TEACHER = {"CPU": 4.0, "teacher": 1.0}
GPU = {"CPU": 4.0, "GPU": 1.0, "A10G": 1.0, "teacher": 1.0, "dialogue": 1.0}
PLAIN = ReplicaNeed(num_cpus=0.5, num_gpus=0.0)


def left_by_ray_up(folder: Path, content: dict[str, object]) -> Path:
    path = folder / "ray_bootstrap_config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_resource_that_no_node_has_is_refused_with_what_they_have() -> None:
    needs = {"dialogue": ReplicaNeed(num_cpus=0.5, num_gpus=1.0, resources={"teacher": 0.001})}
    with pytest.raises(
        InputError,
        match=r"a dialogue replica .* a need of CPU 0\.5, GPU 1, teacher 0\.001, and nodes with "
        r"CPU 4, GPU 0, teacher 1; CPU 0, GPU 0\. Ask for less",
    ):
        check_offers(needs, Offers(running=[HEAD, TEACHER]))
    assert check_offers(needs, Offers(running=[HEAD, TEACHER], startable=[GPU])) == []


def test_replica_larger_than_each_node_is_refused_though_all_together_are_larger() -> None:
    needs = {"dialogue": ReplicaNeed(num_cpus=5.0, num_gpus=0.0)}
    with pytest.raises(InputError, match="a dialogue replica must fit one node"):
        check_offers(needs, Offers(running=[TEACHER, TEACHER]))


def test_listed_machine_that_has_not_joined_may_have_what_the_others_lack(tmp_path: Path) -> None:
    content = {
        "provider": {"type": "local", "head_ip": "a", "worker_ips": ["b", "c"]},
        "available_node_types": {"local.cluster.node": {"resources": {}, "max_workers": 2}},
        "head_node_type": "local.cluster.node",
    }
    path = left_by_ray_up(tmp_path, content)
    (doubt,) = check_offers({"dialogue": PLAIN}, read_offers([HEAD, {"student": 1.0}], path))
    assert doubt.startswith("no node has room for a dialogue replica (CPU 0.5, GPU 0): 1 listed")
    with pytest.raises(InputError, match="a dialogue replica must fit one node"):
        check_offers({"dialogue": PLAIN}, read_offers([HEAD, {"student": 1.0}] * 2, path))


def test_listed_machine_of_a_type_is_awaited_and_named(tmp_path: Path) -> None:
    content = {
        "provider": {"type": "external", "head_ip": "a"},
        "available_node_types": {
            "head": {"resources": {"CPU": 0}, "max_workers": 0},
            "teacher": {"resources": {"teacher": 1}, "max_workers": 2},
        },
        "head_node_type": "head",
    }
    offers = read_offers([HEAD, TEACHER], left_by_ray_up(tmp_path, content))
    assert offers.num_awaited == 1
    assert offers.resources_for("dialogue") == {"teacher": 0.001}
    larger = {"dialogue": ReplicaNeed(num_cpus=5.0, num_gpus=0.0)}
    assert len(check_offers(larger, offers)) == 1


def test_types_that_may_be_started_are_offered_and_the_heads_is_not(tmp_path: Path) -> None:
    content = {
        "provider": {"type": "aws"},
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {"CPU": 8}, "max_workers": 0},
            "dialogue": {"resources": GPU, "max_workers": 4},
            "none": {"resources": {"CPU": 64}, "max_workers": 0},
        },
    }
    assert read_offers([HEAD], left_by_ray_up(tmp_path, content)).startable == [GPU]
    assert read_offers([HEAD], tmp_path / "none") == Offers(running=[HEAD], startable=[])


def test_replica_asks_for_the_resource_of_its_kind_or_else_of_teachers() -> None:
    both = Offers(running=[HEAD, TEACHER], startable=[GPU])
    assert both.resources_for("dialogue") == {"dialogue": 0.001}
    assert both.resources_for("recommendation") == {"teacher": 0.001}
    assert Offers(running=[{"CPU": 4.0}]).resources_for("dialogue") == {}


def test_replica_gets_a_gpu_where_the_nodes_of_its_kind_have_one() -> None:
    films = {"CPU": 4.0, "recommendation": 1.0}
    offers = Offers(running=[HEAD], startable=[GPU, films])
    assert offers.gpus_for(offers.resources_for("dialogue")) == 1.0
    assert offers.gpus_for(offers.resources_for("recommendation")) == 0.0
