"""The door to boto3: clients of one region, and their errors as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trainer.common.errors import MachineError, MissingError, first_line

INSTALL = "pip install -c constraints.txt -e '.[aws]'"
PARTITIONS = {"cn": "aws-cn", "us-gov": "aws-us-gov"}


class NoCredentialsError(MachineError):
    """AWS cannot be asked: nobody has said who asks."""


@dataclass(frozen=True, kw_only=True)
class Aws:
    """Clients of one region. They are made when the library's types are known, so Any."""

    region: str
    account: str
    ec2: Any
    iam: Any
    ssm: Any
    efs: Any
    quotas: Any

    @property
    def partition(self) -> str:
        """The first part of every ARN."""
        return next((it for key, it in PARTITIONS.items() if self.region.startswith(key)), "aws")

    def arn(self, service: str, resource: str, *, region: str | None = None) -> str:
        """The ARN of something in this account, in this region if none is given."""
        region = self.region if region is None else region
        return f"arn:{self.partition}:{service}:{region}:{self.account}:{resource}"


def connect(region: str) -> Aws:
    """Clients for the account whose credentials boto3 finds; asks AWS which account that is.

    Raises:
        MissingError: if boto3 is not installed.
        NoCredentialsError: if there are none.
        MachineError: if AWS does not answer, or refuses them.
    """
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise MissingError(f"boto3 must be installed, got none. Run: {INSTALL}") from error
    config = Config(
        region_name=region, connect_timeout=4, read_timeout=20, retries={"max_attempts": 2}
    )
    with aws_errors("say which account this is"):
        session = boto3.Session(region_name=region)
        if session.get_credentials() is None:
            raise NoCredentialsError(
                "AWS credentials must be there, got none. Run aws configure, or set AWS_PROFILE or "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        account = session.client("sts", config=config).get_caller_identity()["Account"]
        clients = {
            name: session.client(service, config=config)
            for name, service in (
                ("ec2", "ec2"),
                ("iam", "iam"),
                ("ssm", "ssm"),
                ("efs", "efs"),
                ("quotas", "service-quotas"),
            )
        }
    return Aws(
        region=region,
        account=account,
        ec2=clients["ec2"],
        iam=clients["iam"],
        ssm=clients["ssm"],
        efs=clients["efs"],
        quotas=clients["quotas"],
    )


@contextmanager
def aws_errors(what: str) -> Iterator[None]:
    """What AWS refuses, and that it cannot be reached, as MachineError: AWS must `what`."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        got = first_line(error).rstrip(".")
        raise MachineError(
            f"AWS must {what}, got: {got}. Look at the credentials, at what they may do, and at "
            "the region."
        ) from error


def code(error: Any) -> str:
    """The code of a refusal, a botocore ClientError."""
    return error.response.get("Error", {}).get("Code", "")
