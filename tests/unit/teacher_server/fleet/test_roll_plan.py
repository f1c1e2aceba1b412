"""Which folders a roll takes: of the same teacher, of another one, of none that would not do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from protos.fingerprint import digest_file
from teacher_server.fleet.local_cluster import FleetState
from teacher_server.fleet.options import parse
from teacher_server.fleet.pins import pin_of
from teacher_server.fleet.roll_plan import RollPlan, check_folder_of, plan_roll
from tests.support import tiny_teachers
from trainer.common.errors import InputError
from trainer.models.frozen import WEIGHTS_NAME, read_card
from trainer.security.credentials import SecurityFiles


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    folders = tiny_teachers.write_teachers(root, tiny_teachers.tiny_vocabulary())
    return folders


def altered(folder: Path, to: Path, weights: str = "", **card: object) -> Path:
    """A copy of a frozen teacher with other weights, or whose card says other things."""
    to.mkdir()
    for path in folder.iterdir():
        if path.is_file():
            (to / path.name).write_bytes(path.read_bytes())
    if weights:
        (to / WEIGHTS_NAME).write_text(weights)
        card["weights_digest"] = digest_file(to / WEIGHTS_NAME)
    content = json.loads((to / "teacher.json").read_text())
    (to / "teacher.json").write_text(json.dumps(content | card))
    return to


def options_of(kind: str, folder: Path) -> dict[str, object]:
    pin = dataclasses.asdict(pin_of(read_card(folder, kind), folder, "float32"))
    return {"folder": str(folder), "dtype": "float32", "pin": pin}


@pytest.fixture
def state(folders: dict[str, Path]) -> FleetState:
    options = {kind: options_of(kind, folder) for kind, folder in folders.items()}
    return FleetState(ray_address="a", directory="b", options=options)


def planned(state: FleetState, *arguments: str | Path) -> RollPlan:
    return plan_roll(parse(["roll", *map(str, arguments)]), state)


def test_roll_takes_the_same_teacher_from_anywhere(
    folders: dict[str, Path], state: FleetState, tmp_path: Path
) -> None:
    assert planned(state) == RollPlan(same=state.options, others={}, drain_s=None)
    copied = altered(folders["dialogue"], tmp_path / "copied")
    plan = planned(state, "--dialogue", copied)
    assert plan.same["dialogue"] == {**state.options["dialogue"], "folder": str(copied)}
    assert plan.others == {}
    gone = {**state.options["dialogue"], "folder": "/gone"}
    state = dataclasses.replace(state, options={"dialogue": gone})
    with pytest.raises(OSError, match="/gone must be a frozen dialogue model"):
        planned(state)


def test_folder_with_other_weights_is_another_teacher_with_a_pin_of_its_own(
    folders: dict[str, Path], state: FleetState, tmp_path: Path
) -> None:
    other = altered(folders["dialogue"], tmp_path / "other", weights="other")
    plan = planned(state, "--dialogue", other, "--drain-s", "5")
    assert plan.same == {"recommendation": state.options["recommendation"]}
    options = plan.others["dialogue"]
    assert options == {**state.options["dialogue"], "folder": str(other), "pin": options["pin"]}
    assert options["pin"]["weights_digest"] == digest_file(other / WEIGHTS_NAME)
    assert plan.drain_s == 5.0


def test_another_teacher_with_fewer_layers_than_a_replica_has_gpus_is_refused(
    folders: dict[str, Path], state: FleetState, tmp_path: Path
) -> None:
    other = altered(folders["dialogue"], tmp_path / "other", weights="other")
    for num_gpus in (2.0, 3.0):
        options = {**state.options["dialogue"], "num_gpus": num_gpus, "plugins": []}
        spread = dataclasses.replace(state, options={"dialogue": options})
        if num_gpus == 2.0:
            assert planned(spread, "--dialogue", other).others["dialogue"]["num_gpus"] == 2.0
            continue
        with pytest.raises(InputError, match="on 3 GPUs must have as many layers, got 2"):
            planned(spread, "--dialogue", other)


def test_teacher_that_differs_in_other_things_alone_is_refused(
    folders: dict[str, Path], state: FleetState, tmp_path: Path
) -> None:
    other = altered(folders["dialogue"], tmp_path / "other", temperature=2.0)
    with pytest.raises(InputError, match=r"temperature 2\.0 instead of 1\.0"):
        planned(state, "--dialogue", other)


def test_teacher_in_the_place_of_the_one_that_serves_is_refused(
    folders: dict[str, Path], state: FleetState, tmp_path: Path
) -> None:
    place = altered(folders["dialogue"], tmp_path / "place", weights="other")
    was_there = {**state.options["dialogue"], "folder": str(place)}
    state = dataclasses.replace(state, options={**state.options, "dialogue": was_there})
    with pytest.raises(InputError, match=r"must lie in a folder of its own, got .*/place, from"):
        planned(state, "--dialogue", place)
    # Without being told to take it, another teacher there is a mistake.
    with pytest.raises(InputError, match=r"weights_digest \w+ instead of"):
        planned(state)


def test_teachers_of_two_vocabularies_do_not_make_a_fleet(
    folders: dict[str, Path], state: FleetState, tmp_path: Path
) -> None:
    other = {
        it: altered(folders[it], tmp_path / it, "other", vocabulary_digest="films")
        for it in folders
    }
    with pytest.raises(InputError, match=r"share one vocabulary after the roll, got .*films \(dia"):
        planned(state, "--dialogue", other["dialogue"])
    both = ("--dialogue", other["dialogue"], "--recommendation", other["recommendation"])
    assert planned(state, *both).same == {}


def test_teacher_that_retires_must_be_in_its_folder_still(
    folders: dict[str, Path], state: FleetState, tmp_path: Path
) -> None:
    place = altered(folders["dialogue"], tmp_path / "place")
    old = {**state.options["dialogue"], "folder": str(place)}
    groups = {"dialogue": old, "dialogue.2": state.options["dialogue"]}
    state = dataclasses.replace(state, options=groups, retiring={"dialogue": 9.0})
    assert planned(state).same == {"dialogue.2": state.options["dialogue.2"]}
    check_folder_of(state, "dialogue")
    altered(folders["dialogue"], tmp_path / "next", weights="next")
    for name in ("teacher.json", WEIGHTS_NAME):
        (place / name).write_bytes((tmp_path / "next" / name).read_bytes())
    with pytest.raises(InputError, match=r"weights_digest \w+ instead of"):
        check_folder_of(state, "dialogue")


def test_roll_with_certificates_of_no_use_is_refused_before_anything_is_replaced(
    tmp_path: Path,
) -> None:
    security = SecurityFiles(tls=str(tmp_path))
    state = FleetState(ray_address="a", directory="b", security=security)
    with pytest.raises(InputError, match=r"ca\.pem must be a file that we may read"):
        planned(state)
