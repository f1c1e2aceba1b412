"""Whatever stands in the way of a cluster on AWS is one line, before anything is started."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import __main__ as command
from cluster.aws import session
from cluster.aws.capacity import quota_code
from cluster.aws.check import check, check_account, check_file
from cluster.aws.prices import PRICES, cost_of, read_prices
from cluster.aws.roles import AwsFile, read_aws_file
from tests.support.fake_aws import FILE, FakeAws, gpu_config
from trainer.common.errors import InputError, MachineError, MissingError, UserError

ROOT = FILE.parents[1]
TODAY = datetime.date(2025, 7, 2)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def changed(*path: str, to: Any) -> dict[str, Any]:
    """The file with one value changed; None removes it."""
    config = copy.deepcopy(gpu_config())
    group = config
    for key in path[:-1]:
        group = group[key]
    if to is None:
        del group[path[-1]]
    else:
        group[path[-1]] = to
    return config


NODES = "available_node_types"


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (changed("max_worker", to=3), "the file must be as Ray's launcher takes it.*max_worker"),
        (changed(NODES, "student", "node_confg", to={}), "node_types.student must be.*node_confg"),
        (
            changed("max_workers", to="x"),
            "max_workers must be as Ray's .*, got: 'x'",
        ),
        (changed(NODES, "student", to=None), "must have a student node, got head, dialogue"),
        (changed(NODES, "student", "max_workers", to=0), "student must have capacity.*got 0 to 0"),
        (
            changed(NODES, "dialogue", "min_workers", to=9),
            "dialogue must have capacity.* 9 to 8",
        ),
        (changed(NODES, "head", "max_workers", to=1), "type head must have max_workers 0"),
        (changed(NODES, "student", "resources", to={"CPU": 1}), "resources of student must have"),
        (
            changed(NODES, "head", "resources", to={"student": 1}),
            "resources of head must have",
        ),
        (
            changed(NODES, "student", "node_config", "IamInstanceProfile", "Name", to="conkd-head"),
            "must have instance profiles of their own, got conkd-head, conkd-teacher",
        ),
        (
            changed(NODES, "student", "node_config", "Placement", to=None),
            "student nodes must be in one placement group, got None",
        ),
        (
            changed(NODES, "student", "node_config", "ImageId", to="ami-00000000000000000"),
            "ImageId must be the same for all node types, got ami-0.*, resolve:ssm:",
        ),
        (
            changed(NODES, "student", "node_config", "ImageId", to="latest"),
            r"ImageId of student must be ami-\.\.\. or resolve:ssm:",
        ),
        (
            changed(NODES, "student", "node_config", "InstanceType", to=None),
            "available_node_types.student.node_config.InstanceType must be set, got None",
        ),
        (
            changed("provider", "availability_zone", to="eu-west-1a"),
            "must be one zone of us-west-2",
        ),
        (changed("provider", "region", to=None), "provider.region must be set, got None"),
        (changed("provider", "key_pair", to=None), "key_pair must be a group of keys, got None"),
        (changed("provider", "type", to="gcp"), "provider.type must be aws, got gcp"),
    ],
)
def test_wrong_file_is_one_line(config: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line) as error:
        check_file(Path("f.yaml"), config, today=TODAY)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("f.yaml: ")


def test_what_goes_to_the_nodes_must_be_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match=r"Makefile must be there to go to the nodes, got none"):
        check_file(FILE, gpu_config(), today=TODAY)
    for name in gpu_config()["file_mounts"].values():
        (tmp_path / name).mkdir()
    with pytest.raises(MissingError, match=r"teacher_pb2_grpc.py must be there.*Run: make protos"):
        check_file(FILE, gpu_config(), today=TODAY)


def test_an_hour_costs_what_the_dated_list_says(file: AwsFile) -> None:
    prices = read_prices()
    usd = {name: it.usd for name, it in prices.instances.items()}
    cost = cost_of(prices, file.node_types, max_workers=12)
    assert cost.least == pytest.approx(usd["m7i.xlarge"])
    # The dearest twelve workers: two students, eight g5, and two of g6.
    most = usd["m7i.xlarge"] + 2 * usd["g5.12xlarge"] + 8 * usd["g5.xlarge"] + 2 * usd["g6.xlarge"]
    assert cost.most == pytest.approx(most)
    assert cost.unknown == ()
    line = check_file(FILE, gpu_config(), today=TODAY)[-1]
    assert f"${cost.least:.2f} at rest and ${cost.most:.2f} at most" in line
    assert f"prices of {prices.as_of} in us-west-2" in line
    assert "old" not in line
    late = prices.as_of + datetime.timedelta(days=400)
    assert "which are old" in check_file(FILE, gpu_config(), today=late)[-1]


def test_a_type_without_a_price_is_named(tmp_path: Path) -> None:
    config = changed(NODES, "student", "node_config", "InstanceType", to="p9.huge")
    line = check_file(FILE, config, today=TODAY)[-1]
    assert "no price is known for p9.huge" in line
    broken = tmp_path / "prices.yaml"
    content = yaml.safe_load(PRICES.read_text())
    content["instances"]["g5.xlarge"]["usd"] = -1
    broken.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=r"prices of an hour in dollars, got others for g5.xlarge"):
        read_prices(broken)
    broken.write_text("as_of: 2025-01-01")
    with pytest.raises(InputError, match=r"must be a list of prices, got: 'instances'"):
        read_prices(broken)


def test_dry_run_without_credentials_says_what_was_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(SystemExit) as end:
        command.main(["up", "cluster/gpu.yaml", "--dry-run"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "the image was not resolved" in shown
    assert "WARN" not in shown
    with pytest.raises(MachineError, match=r"AWS credentials must be there, got none"):
        check(FILE, gpu_config(), is_dry=False)


def test_library_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingError, match=r"boto3 must be installed, got none\. Run: pip install"):
        session.connect("us-west-2")


def test_aws_that_does_not_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "fake")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "fake")
    with pytest.raises(MachineError, match=r"^AWS must say which account this is, got: Could not"):
        check(FILE, gpu_config(), is_dry=True)


def test_account_that_is_set_up_is_told_with_its_image(ready: FakeAws, file: AwsFile) -> None:
    (line,) = check_account(ready.clients, file, ssh_folder=Path.home() / ".ssh")
    assert ready.image in line
    assert "account 123456789012 is set up" in line


def test_second_laptop_may_start_a_cluster(ready: FakeAws, file: AwsFile, tmp_path: Path) -> None:
    assert len(check_account(ready.clients, file, ssh_folder=tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []


def test_quota_below_one_node_is_refused_and_one_below_all_is_told(
    ready: FakeAws, file: AwsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path.home() / ".ssh"
    monkeypatch.setattr(ready, "quota", 47.0)
    with pytest.raises(InputError, match=r"allowed one g5.12xlarge for student \(48 vCPUs\), got"):
        check_account(ready.clients, file, ssh_folder=home)
    monkeypatch.setattr(ready, "quota", 48.0)
    notes = check_account(ready.clients, file, ssh_folder=home)[1:]
    assert any("(student) allows 48 vCPUs of the 96" in it for it in notes)


def test_spot_and_on_demand_count_in_quotas_of_their_own(file: AwsFile) -> None:
    codes = {it.name: quota_code(it) for it in file.node_types}
    assert codes["student"] == "L-DB2E81BA"
    assert codes["dialogue"] == codes["dialogue-g4dn"] == "L-3819A6DF"
    assert codes["recommendation"] == "L-34B43A08"
    assert codes["head"] == "L-1216C47A"


def replaced(text: str, by: str) -> AwsFile:
    config = yaml.safe_load(FILE.read_text().replace(text, by))
    return read_aws_file(FILE, config)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: replaced("g5.12xlarge", "u-9tb1.metal"), "student must have an instance type of"),
        (lambda: replaced("/conkd/image", "/other/image"), "got 2 missing or of another.*/other"),
        (lambda: replaced("Name: conkd-teacher", "Name: c-teacher"), "first the role and instance"),
        (lambda: replaced("conkd-students", "others"), "first the placement group others"),
        (lambda: replaced("GroupName: conkd}", "GroupName: another}"), "first the security group"),
    ],
)
def test_what_the_account_lacks_is_one_line(
    ready: FakeAws, make: Callable[[], AwsFile], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        check_account(ready.clients, make(), ssh_folder=Path.home() / ".ssh")
