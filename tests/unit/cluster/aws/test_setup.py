"""`setup` against an AWS on loopback: what is made, what each node may do, and that all goes."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from cluster import __main__ as command
from cluster.aws.parameters import FILES, MAX_BYTES, key_parameter, secret_parameter
from cluster.aws.parts import Step
from cluster.aws.roles import ROLES, AwsFile
from cluster.aws.session import Aws
from cluster.aws.setup import Account, SetupOptions, open_account
from cluster.aws.ssh_key import bring_key
from tests.support.fake_aws import ACCOUNT, FILE, REGION, FakeAws, policies_of
from trainer.common.errors import InputError, MachineError

MADE = (
    *("parameter", "role and instance profile", "role and instance profile"),
    *("role and instance profile", "service-linked role", "SSH key", "security group"),
    *("placement group", "file system", "secrets"),
)


def opened(
    aws: Aws, file: AwsFile, options: SetupOptions | None = None, home: Path | None = None
) -> Account:
    folder = (home or Path.home()) / ".ssh"
    return open_account(aws, file, options or SetupOptions(), ssh_folder=folder)


def set_up(aws: Aws, file: AwsFile, options: SetupOptions | None = None) -> list[Step]:
    account = opened(aws, file, options)
    steps = account.plan()
    account.carry_out(steps, lambda _: None)
    return steps


def changed(steps: list[Step]) -> list[str]:
    return [it.what.partition(":")[0] for it in steps if it.verb != "keep"]


def secrets_of(aws: Aws, file: AwsFile) -> dict[str, dict[str, str]]:
    texts = {
        role: aws.ssm.get_parameter(Name=secret_parameter(file.profile(role)), WithDecryption=True)[
            "Parameter"
        ]
        for role in ROLES
    }
    assert all(it["Type"] == "SecureString" for it in texts.values())
    assert all(len(it["Value"]) <= MAX_BYTES for it in texts.values())
    return {role: json.loads(it["Value"]) for role, it in texts.items()}


def test_setup_makes_all_parts_and_a_second_one_changes_nothing(
    empty: FakeAws, clients: Aws, file: AwsFile
) -> None:
    steps = set_up(clients, file)
    assert [it.verb for it in steps] == ["make"] * len(MADE)
    assert [it.what.startswith(name) for it, name in zip(steps, MADE, strict=True)]
    empty.calls.clear()
    assert changed(set_up(clients, file)) == []
    changing = ("Create", "Put", "Delete", "Import", "Authorize", "Revoke", "Add")
    assert [name for name, _ in empty.calls if name.startswith(changing)] == []


@pytest.mark.everything
def test_setup_that_was_interrupted_is_gone_on_with(
    empty: FakeAws, clients: Aws, file: AwsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no EFS"}}, "Create")

    with monkeypatch.context() as patch:
        patch.setattr(clients.efs, "create_file_system", refuse)
        with pytest.raises(MachineError, match=r"AWS must do what the plan says, got: .*no EFS"):
            set_up(clients, file)
    assert changed(set_up(clients, file)) == [
        "file system conkd-shared (EFS, encrypted), reached from us-west-2a",
        "secrets /conkd/secrets/conkd-head, /conkd/secrets/conkd-teacher, "
        "/conkd/secrets/conkd-student",
    ]
    assert changed(set_up(clients, file)) == []


def test_each_role_reads_its_own_secret_and_nothing_else(
    empty: FakeAws, clients: Aws, file: AwsFile
) -> None:
    set_up(clients, file)
    arn = f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter"
    for role in ("teacher", "student"):
        assert policies_of(empty, f"conkd-{role}") == [
            {
                "Effect": "Allow",
                "Action": "ssm:GetParameter",
                "Resource": f"{arn}/conkd/secrets/conkd-{role}",
            }
        ]
    head = policies_of(empty, "conkd-head")
    assert [it["Resource"] for it in head if "ssm" in str(it["Action"])] == [
        f"{arn}/conkd/secrets/conkd-head",
        f"{arn}/conkd/image",
    ]
    passing = next(it for it in head if it["Action"] == "iam:PassRole")
    roles = [f"arn:aws:iam::{ACCOUNT}:role/conkd-{it}" for it in ("teacher", "student")]
    assert passing["Resource"] == roles
    # It ends only what Ray launched.
    ending = next(it for it in head if "ec2:TerminateInstances" in it["Action"])
    assert ending["Condition"] == {"StringLike": {"aws:ResourceTag/ray-cluster-name": "*"}}
    actions = {it for one in head for it in _listed(one["Action"])}
    assert not any(it.endswith("*") for it in actions)


def _listed(actions: str | list[str]) -> list[str]:
    return [actions] if isinstance(actions, str) else actions


def test_secrets_of_the_roles_fit_each_other_and_students_have_no_servers_key(
    clients: Aws, file: AwsFile
) -> None:
    set_up(clients, file)
    found = secrets_of(clients, file)
    for role, content in found.items():
        names = {Path(it).name for it in FILES[role]}  # type: ignore[index]
        assert content.keys() == names | {"role", "shared"}
    assert "server.key" not in found["student"]
    assert "client.key" not in found["teacher"]
    for name in ("auth_token", "token", "ca.pem", "shared"):
        assert len({it[name] for it in found.values()}) == 1
    assert found["head"]["auth_token"] != found["head"]["token"]
    system = clients.efs.describe_file_systems()["FileSystems"][0]
    assert system["Encrypted"] is True
    assert found["head"]["shared"] == f"{system['FileSystemId']}.efs.us-west-2.amazonaws.com:/"


def test_file_system_is_reached_from_the_zone_by_members_of_the_group(
    clients: Aws, file: AwsFile
) -> None:
    set_up(clients, file)
    system = clients.efs.describe_file_systems()["FileSystems"][0]["FileSystemId"]
    (target,) = clients.efs.describe_mount_targets(FileSystemId=system)["MountTargets"]
    (subnet,) = clients.ec2.describe_subnets(SubnetIds=[target["SubnetId"]])["Subnets"]
    assert subnet["AvailabilityZone"] == "us-west-2a"
    groups = clients.efs.describe_mount_target_security_groups(
        MountTargetId=target["MountTargetId"]
    )["SecurityGroups"]
    (group,) = clients.ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"]
    assert group["GroupName"] == "conkd"


CHOICES = (
    SetupOptions(shared="head"),
    SetupOptions(shared="fs.example.org:/fsx"),
    SetupOptions(ssh_from="203.0.113.0/24"),
    SetupOptions(new_secrets=True),
)


@pytest.mark.everything
def test_a_later_choice_changes_one_part_and_is_kept_then(clients: Aws, file: AwsFile) -> None:
    set_up(clients, file)
    shared, open_to = secrets_of(clients, file)["head"]["shared"], "0.0.0.0/0"
    for options in CHOICES:
        before = secrets_of(clients, file)
        assert len(changed(set_up(clients, file, options))) == 1
        shared, open_to = options.shared or shared, options.ssh_from or open_to
        after = secrets_of(clients, file)
        assert (after["head"]["ca.pem"] != before["head"]["ca.pem"]) == options.new_secrets
        assert {it["shared"] for it in after.values()} == {shared}
        (group,) = clients.ec2.describe_security_groups(GroupNames=["conkd"])["SecurityGroups"]
        ranges = [it["CidrIp"] for rule in group["IpPermissions"] for it in rule["IpRanges"]]
        assert ranges == [open_to]
        assert changed(set_up(clients, file)) == []


@pytest.mark.everything
def test_image_is_the_one_that_was_named_and_stays_when_awss_is_a_newer_one(
    empty: FakeAws, clients: Aws, file: AwsFile
) -> None:
    set_up(clients, file)
    stored = clients.ssm.get_parameter(Name="/conkd/image")["Parameter"]
    assert (stored["Value"], stored["DataType"]) == (empty.image, "aws:ec2:image")
    with pytest.raises(InputError, match=r"image ami-0123456789abcdef0 must be in us-west-2, got"):
        set_up(clients, file, SetupOptions(image="ami-0123456789abcdef0"))
    with pytest.raises(InputError, match=r"parameter /none must hold the id of an image"):
        set_up(clients, file, SetupOptions(image="/none"))
    newer = clients.ec2.copy_image(Name="newer", SourceImageId=empty.image, SourceRegion=REGION)[
        "ImageId"
    ]
    assert changed(set_up(clients, file)) == []
    assert changed(set_up(clients, file, SetupOptions(image=newer))) == ["parameter /conkd/image"]
    assert clients.ssm.get_parameter(Name="/conkd/image")["Parameter"]["Value"] == newer
    # AWS takes old images back.
    clients.ec2.deregister_image(ImageId=newer)
    assert changed(set_up(clients, file)) == ["parameter /conkd/image"]
    assert clients.ssm.get_parameter(Name="/conkd/image")["Parameter"]["Value"] == empty.image


@pytest.mark.everything
def test_a_second_laptop_gets_the_key_and_one_with_another_key_is_told(
    clients: Aws, file: AwsFile, tmp_path: Path
) -> None:
    set_up(clients, file)
    first = Path.home() / ".ssh" / "conkd.pem"
    second = bring_key(clients, file, tmp_path / "second" / ".ssh")
    assert second.read_text() == first.read_text()
    assert second.stat().st_mode & 0o777 == 0o600
    second.write_text("another")
    with pytest.raises(InputError, match=r"must be the key conkd of this account, got another"):
        bring_key(clients, file, second.parent)


def test_a_key_that_setup_did_not_make_is_not_touched(clients: Aws, file: AwsFile) -> None:
    clients.ec2.create_key_pair(KeyName="conkd")
    with pytest.raises(InputError, match=r"the key conkd must be one that setup made, got"):
        opened(clients, file).plan()
    clients.ec2.describe_key_pairs(KeyNames=["conkd"])


def test_remove_leaves_nothing_but_awss_own_role(clients: Aws, file: AwsFile) -> None:
    before = remains(clients)
    set_up(clients, file)
    account = opened(clients, file)
    account.check_removal(with_data=False)
    steps = account.plan_removal()
    assert len(steps) == len(MADE) - 1
    account.carry_out(steps, lambda _: None)
    assert remains(clients) == before
    assert not (Path.home() / ".ssh" / "conkd.pem").exists()
    assert opened(clients, file).plan_removal() == []


def remains(aws: Aws) -> dict[str, Any]:
    """All that setup could leave behind."""
    parameters = aws.ssm.describe_parameters()["Parameters"]
    groups = aws.ec2.describe_security_groups()["SecurityGroups"]
    return {
        "profiles": aws.iam.list_instance_profiles()["InstanceProfiles"],
        "roles": [it["RoleName"] for it in aws.iam.list_roles()["Roles"] if it["Path"] == "/"],
        "parameters": [it["Name"] for it in parameters if it["Name"].startswith("/conkd")],
        "keys": aws.ec2.describe_key_pairs()["KeyPairs"],
        "groups": [it["GroupName"] for it in groups],
        "placement": aws.ec2.describe_placement_groups(
            Filters=[{"Name": "group-name", "Values": ["conkd-students"]}]
        )["PlacementGroups"],
        "systems": aws.efs.describe_file_systems()["FileSystems"],
    }


@pytest.mark.everything
def test_remove_is_refused_while_nodes_run_or_data_would_be_lost(
    clients: Aws, file: AwsFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(clients, file)
    image = clients.ssm.get_parameter(Name="/conkd/image")["Parameter"]["Value"]
    node = clients.ec2.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, IamInstanceProfile={"Name": "conkd-teacher"}
    )["Instances"][0]["InstanceId"]
    with pytest.raises(InputError, match=rf"no node of this setup must be there, got 1 \({node}\)"):
        opened(clients, file).check_removal(with_data=True)
    clients.ec2.terminate_instances(InstanceIds=[node])
    account = opened(clients, file)
    system = clients.efs.describe_file_systems()["FileSystems"][0]
    held = {**system, "SizeInBytes": {"Value": 5_000_000_000}}
    monkeypatch.setattr(type(account.file_system), "find", lambda _: held)
    with pytest.raises(InputError, match=r"conkd-shared must be empty, got 5 GB.*--with-data"):
        account.check_removal(with_data=False)
    account.check_removal(with_data=True)


@pytest.mark.everything
def test_command_shows_the_plan_and_does_nothing_unless_it_is_agreed_to(
    empty: FakeAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(FILE.parents[1])
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    with pytest.raises(InputError, match=r"the plan must be agreed to, got n\. Nothing was done"):
        command.main(["setup", str(FILE)])
    shown = capsys.readouterr().out
    assert "  make   role and instance profile conkd-head: " in shown
    assert "0.0.0.0/0 port 22" in shown
    assert not any(name.startswith(("Create", "Put")) for name, _ in empty.calls)
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    with pytest.raises(SystemExit) as end:
        command.main(["setup", str(FILE)])
    assert end.value.code == 0
    assert capsys.readouterr().out.count("\ndone   make ") == len(MADE) - 1
    assert key_parameter("conkd") in [it["Name"] for it in empty.asked("PutParameter")]
