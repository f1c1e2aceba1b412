"""What is checked of a file before anything is started on AWS, and the estimate of its price."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.aws.capacity import check_offered, quota_notes
from cluster.aws.images import resolve
from cluster.aws.parts import VERBS
from cluster.aws.prices import cost_of, price_line, read_prices
from cluster.aws.roles import AwsFile, NodeType, read_aws_file
from cluster.aws.schema import check_schema
from cluster.aws.session import Aws, NoCredentialsError, aws_errors, connect
from cluster.aws.setup import SetupOptions, open_account
from cluster.aws.ssh_key import SshKey
from trainer.common.errors import InputError


def check_file(path: Path, config: Mapping[str, Any], *, today: datetime.date) -> list[str]:
    """A file judged without asking anybody; what it says, and what an hour costs, in lines.

    Raises:
        InputError, MissingError: if nothing could be started with it.
    """
    check_schema(path, config)
    file = read_aws_file(path, config)
    prices = read_prices()
    cost = cost_of(prices, file.node_types, max_workers=config["max_workers"])
    return [
        f"{path}: cluster {file.cluster_name} in {file.zone}",
        *(_type_line(it) for it in file.node_types),
        price_line(prices, cost, region=file.region, today=today),
    ]


def check_account(aws: Aws, file: AwsFile, *, ssh_folder: Path) -> list[str]:
    """The file against the account: setup is done, image and instance types are there.

    Raises:
        InputError: if something is missing; nothing was started.
        MachineError: if AWS refuses.
    """
    account = open_account(aws, file, SetupOptions(), ssh_folder=ssh_folder)
    undone = [
        step.what
        for step in account.plan()
        if step.verb != VERBS["ready"]
        # A second laptop: `up` fetches it.
        and not (step.verb == VERBS["differs"] and isinstance(step.part, SshKey))
    ]
    if undone:
        raise InputError(
            f"setup must be done for {file.path}, got {len(undone)} missing or of another release, "
            f"first the {undone[0].partition(':')[0]}. Run: python -m cluster setup "
            f"{file.path}"
        )
    with aws_errors("say what there is"):
        image = resolve(aws, file.image_parameter or file.image)
        check_offered(aws, file)
        notes = quota_notes(aws, file)
    return [f"image {image.id} ({image.name}); account {aws.account} is set up", *notes]


def check(path: Path, config: Mapping[str, Any], *, is_dry: bool) -> list[str]:
    """Both checks, as lines to show. A dry run does without credentials, and says so.

    Raises:
        InputError, MissingError, MachineError: if the cluster cannot be started.
    """
    lines = check_file(path, config, today=datetime.date.today())
    file = read_aws_file(path, config)
    try:
        aws = connect(file.region)
    except NoCredentialsError:
        if not is_dry:
            raise
        return [*lines, "no AWS credentials: the image was not resolved, the account not looked at"]
    return [*lines, *check_account(aws, file, ssh_folder=Path.home() / ".ssh")]


def _type_line(it: NodeType) -> str:
    nodes = f"{it.max_nodes}" if it.min_nodes == it.max_nodes else f"{it.min_nodes}..{it.max_nodes}"
    market = "spot" if it.is_spot else "on demand"
    return f"  {it.name:<20} {nodes:>5} x {it.instance_type:<13} {market}"
