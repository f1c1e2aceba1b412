"""The SSH key of a cluster: made once, and brought to each laptop that uses the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from cluster.aws.parameters import key_parameter
from cluster.aws.parts import State
from cluster.aws.roles import AwsFile, read_aws_file
from cluster.aws.secret_files import write_secret
from cluster.aws.session import Aws, aws_errors, code, connect
from trainer.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class SshKey:
    """The key pair: the public half in EC2, the private one in the Parameter Store and here.

    A second laptop gets it from there: Ray would make another pair where the file is missing.
    """

    aws: Aws
    file: AwsFile
    folder: Path
    """~/.ssh, where Ray looks for it."""

    @property
    def what(self) -> str:
        """Name and places."""
        return f"SSH key {self.file.key_name}: in EC2, in the Parameter Store, and as {self.path}"

    @property
    def path(self) -> Path:
        """The private key on this machine."""
        return self.folder / f"{self.file.key_name}.pem"

    def state(self) -> State:
        """Ready if all three are there; a key that is not ours is not touched."""
        stored, in_ec2 = self._stored(), self._is_in_ec2()
        here = self.path.read_text() if self.path.is_file() else None
        if stored is None and (in_ec2 or here is not None):
            place = f"in EC2 ({self.aws.region})" if in_ec2 else f"here ({self.path})"
            raise InputError(
                f"the key {self.file.key_name} must be one that setup made, got another {place}. "
                f"Remove it, or name another provider.key_pair.key_name in {self.file.path}."
            )
        if stored is None:
            return "missing"
        if here is not None and here != stored:
            raise InputError(
                f"{self.path} must be the key {self.file.key_name} of this account, got another. "
                "Move the file away; then run setup again."
            )
        return "ready" if in_ec2 and here is not None else "differs"

    def make(self) -> None:
        """Make the pair, or bring it to where it is missing."""
        private = self._stored()
        if private is None:
            private = _new_key()
            self.aws.ssm.put_parameter(
                Name=key_parameter(self.file.key_name), Value=private, Type="SecureString"
            )
        if not self._is_in_ec2():
            self.aws.ec2.import_key_pair(
                KeyName=self.file.key_name, PublicKeyMaterial=_public(private)
            )
        if not self.path.is_file():
            write_secret(self.path, private)

    def remove(self) -> None:
        """Remove it from all three places."""
        self.aws.ec2.delete_key_pair(KeyName=self.file.key_name)
        if self._stored() is not None:
            self.aws.ssm.delete_parameter(Name=key_parameter(self.file.key_name))
        self.path.unlink(missing_ok=True)

    def _stored(self) -> str | None:
        try:
            found = self.aws.ssm.get_parameter(
                Name=key_parameter(self.file.key_name), WithDecryption=True
            )
        except self.aws.ssm.exceptions.ParameterNotFound:
            return None
        return found["Parameter"]["Value"]

    def _is_in_ec2(self) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.aws.ec2.describe_key_pairs(KeyNames=[self.file.key_name])
        except ClientError as error:
            if code(error) != "InvalidKeyPair.NotFound":
                raise
            return False
        return True


def _new_key() -> str:
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()


def _public(private: str) -> bytes:
    key = load_ssh_private_key(private.encode(), password=None).public_key()
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def laptop_key(path: Path, config: Mapping[str, Any]) -> Path:
    """The private key of a file's cluster on this machine, fetched if it is not there.

    Raises:
        InputError: if setup has not made it, or another key has its name.
        MachineError: if AWS refuses.
    """
    file, folder = read_aws_file(path, config), Path.home() / ".ssh"
    there = folder / f"{file.key_name}.pem"
    return there if there.is_file() else bring_key(connect(file.region), file, folder)


def bring_key(aws: Aws, file: AwsFile, folder: Path) -> Path:
    """The private key, fetched to `folder` if it is not there.

    Raises:
        InputError: if setup has not made it, or another key has its name.
    """
    key = SshKey(aws=aws, file=file, folder=folder)
    with aws_errors("hand out the SSH key"):
        if key.state() == "missing":
            raise InputError(
                f"the key {file.key_name} must be in this account, got none. Run: "
                f"python -m cluster setup {file.path}"
            )
        key.make()
    return key.path
