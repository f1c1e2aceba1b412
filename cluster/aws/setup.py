"""`python -m cluster setup FILE`: what an account needs once, before `ray up` with the file.

The plan is made from the account as it is: what is there and right stays, so a second setup changes
nothing, and one that was interrupted is gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.aws.identities import NodeRole, SpotRole
from cluster.aws.images import DEFAULT_IMAGE
from cluster.aws.network import PlacementGroup, SecurityGroup, find_place
from cluster.aws.parameters import secret_parameter
from cluster.aws.parts import Part, Step, carry_out, changes, steps_to_make, steps_to_remove
from cluster.aws.roles import ROLES, AwsFile
from cluster.aws.session import Aws, aws_errors
from cluster.aws.ssh_key import SshKey
from cluster.aws.storage import EFS, EMPTY_BYTES, FileSystem, size
from cluster.aws.stored import Image, Secrets, read_parameter
from trainer.common.errors import InputError

ALIVE = ("pending", "running", "stopping", "stopped")


@dataclass(frozen=True, kw_only=True)
class SetupOptions:
    """What a user may choose; None leaves what is there, or takes the default."""

    shared: str | None = None
    """`efs` (the default), `head`, or ADDRESS:/PATH."""
    image: str | None = None
    """ami-..., or a parameter that holds such an id."""
    ssh_from: str | None = None
    """Addresses that may log in (CIDR); everybody at first."""
    new_secrets: bool = False


@dataclass(frozen=True, kw_only=True)
class Account:
    """The parts of one file in one account."""

    aws: Aws
    file: AwsFile
    parts: tuple[Part, ...]
    file_system: FileSystem

    def plan(self) -> list[Step]:
        """What setup does."""
        with aws_errors("show what is there"):
            return steps_to_make(self.parts)

    def plan_removal(self) -> list[Step]:
        """What --remove does; the spot role is AWS's and stays."""
        with aws_errors("show what is there"):
            parts = [it for it in self.parts if not isinstance(it, SpotRole)]
            return steps_to_remove(parts)

    def check_removal(self, *, with_data: bool) -> None:
        """Raise InputError while nodes run, or if data would be lost."""
        with aws_errors("show what is there"):
            nodes = _nodes(self.aws, self.file)
            found = self.file_system.find()
        if nodes:
            raise InputError(
                f"no node of this setup must be there, got {len(nodes)} ({', '.join(nodes[:3])}). "
                f"First: python -m cluster down {self.file.path}"
            )
        if found is not None and size(found) > EMPTY_BYTES and not with_data:
            raise InputError(
                f"the file system {self.file_system.token} must be empty, got "
                f"{size(found) / 1e9:.3g} GB. Fetch what you need (python -m cluster pull); then "
                "add --with-data."
            )

    def carry_out(self, steps: list[Step], tell: Callable[[str], None]) -> None:
        """Do what the plan says."""
        with aws_errors("do what the plan says"):
            carry_out(steps, tell)


def open_account(aws: Aws, file: AwsFile, options: SetupOptions, *, ssh_folder: Path) -> Account:
    """The account's parts, in the order in which they are made.

    Raises:
        InputError: if the file names no parameter for the image, or its zone has no subnet.
        MachineError: if AWS refuses.
    """
    with aws_errors("show what is there"):
        place = find_place(aws, file)
        shared = options.shared or _stored_sort(aws, file)
    group = SecurityGroup(aws=aws, file=file, place=place, ssh_from=options.ssh_from)
    system = FileSystem(
        aws=aws, token=f"{file.security_group}-shared", zone=file.zone, place=place, group=group
    )
    secrets = Secrets(
        aws=aws,
        file=file,
        shared=system.address if shared == EFS else lambda: shared,
        renew=options.new_secrets,
    )
    # One that was made and is no longer mounted stays in sight, for --remove.
    is_there = system.find() is not None
    parts: tuple[Part, ...] = (
        *_image(aws, file, options),
        *(NodeRole(aws=aws, file=file, role=role) for role in ROLES),
        *([SpotRole(aws=aws)] if any(it.is_spot for it in file.node_types) else []),
        SshKey(aws=aws, file=file, folder=ssh_folder),
        group,
        PlacementGroup(aws=aws, file=file),
        *([system] if shared == EFS or is_there else []),
        secrets,
    )
    return Account(aws=aws, file=file, parts=parts, file_system=system)


def is_done(steps: list[Step]) -> bool:
    """Whether a plan changes nothing."""
    return changes(steps) == 0


def _image(aws: Aws, file: AwsFile, options: SetupOptions) -> list[Part]:
    if file.image_parameter is None:
        if options.image is not None:
            raise InputError(
                f"--image must be left out beside the ImageId {file.image} in {file.path}, got "
                f"{options.image}. Write resolve:ssm:/conkd/image there, or change it there."
            )
        return []
    wanted = options.image or DEFAULT_IMAGE
    is_named = options.image is not None
    return [Image(aws=aws, name=file.image_parameter, wanted=wanted, is_named=is_named)]


def _stored_sort(aws: Aws, file: AwsFile) -> str:
    """What --shared was, from what nodes read; `efs` before the first setup."""
    text = read_parameter(aws, secret_parameter(file.profile("head")))
    shared = EFS if text is None else str(json.loads(text)["shared"])
    return EFS if ".efs." in shared else shared


def _nodes(aws: Aws, file: AwsFile) -> list[str]:
    """Instances that have a profile of this setup."""
    profiles = {file.profile(role) for role in ROLES}
    states = [{"Name": "instance-state-name", "Values": list(ALIVE)}]
    pages = aws.ec2.get_paginator("describe_instances").paginate(Filters=states)
    return [
        instance["InstanceId"]
        for page in pages
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
        if instance.get("IamInstanceProfile", {}).get("Arn", "").rpartition("/")[2] in profiles
    ]
