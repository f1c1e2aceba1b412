"""What setup writes into the Parameter Store: the image's id, and the secrets of each role."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.aws.images import resolve
from cluster.aws.parameters import MAX_BYTES, new_secrets, secret_parameter
from cluster.aws.parts import State
from cluster.aws.roles import ROLES, AwsFile, Role
from cluster.aws.session import Aws
from trainer.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Image:
    """The parameter that the file's ImageId names: all nodes start from the image in it."""

    aws: Aws
    name: str
    wanted: str
    """Id, or parameter, of the image."""
    is_named: bool
    """Whether the user named it: then another one in the parameter gives way."""

    @property
    def what(self) -> str:
        """The parameter, and what is or will be in it."""
        there = self._there()
        stays = there is not None and not self.is_named and self._is_usable(there)
        image = resolve(self.aws, there if there and stays else self.wanted)
        return f"parameter {self.name}: image {image.id} ({image.name})"

    def state(self) -> State:
        """Ready if there is an image that exists, and, if one was named, that one.

        AWS takes old images back: then the newest one takes the place.
        """
        there = self._there()
        if there is None:
            return "missing"
        if self.is_named:
            return "ready" if resolve(self.aws, self.wanted).id == there else "differs"
        return "ready" if self._is_usable(there) else "differs"

    def make(self) -> None:
        """Write the id; AWS checks that it is one."""
        self.aws.ssm.put_parameter(
            Name=self.name,
            Value=resolve(self.aws, self.wanted).id,
            Type="String",
            DataType="aws:ec2:image",
            Overwrite=True,
        )

    def remove(self) -> None:
        """Delete the parameter; the image is not ours."""
        self.aws.ssm.delete_parameter(Name=self.name)

    def _there(self) -> str | None:
        return read_parameter(self.aws, self.name)

    def _is_usable(self, image: str) -> bool:
        try:
            resolve(self.aws, image)
        except InputError:
            return False
        return True


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Certificates and tokens of all roles, one encrypted parameter each: they fit each other."""

    aws: Aws
    file: AwsFile
    shared: Callable[[], str | None]
    """What nodes mount as the shared folder; None before the file system is there."""
    renew: bool

    @property
    def what(self) -> str:
        """The parameters."""
        names = ", ".join(secret_parameter(self.file.profile(role)) for role in ROLES)
        return f"secrets {names}: certificates, tokens, and where the shared folder is"

    def state(self) -> State:
        """Ready if all are there, of one make, and name the shared folder."""
        there = self._there()
        if not there:
            return "missing"
        whole = len(there) == len(ROLES) and len({it["ca.pem"] for it in there.values()}) == 1
        if self.renew or not whole:
            return "differs"
        return "ready" if {it["shared"] for it in there.values()} == {self.shared()} else "differs"

    def make(self) -> None:
        """Write a new set, or another place of the shared folder into the one that there is."""
        there, shared = self._there(), self.shared()
        assert shared is not None, "the file system is made before"
        contents = there if len(there) == len(ROLES) and not self.renew else new_secrets(shared)
        for role, content in contents.items():
            text = json.dumps({**content, "shared": shared})
            assert len(text) <= MAX_BYTES, f"{role}: {len(text)}"
            self.aws.ssm.put_parameter(
                Name=secret_parameter(self.file.profile(role)),
                Value=text,
                Type="SecureString",
                Overwrite=True,
            )

    def remove(self) -> None:
        """Delete them."""
        for role in self._there():
            self.aws.ssm.delete_parameter(Name=secret_parameter(self.file.profile(role)))

    def _there(self) -> dict[Role, dict[str, Any]]:
        texts: dict[Role, str | None] = {
            role: read_parameter(self.aws, secret_parameter(self.file.profile(role)))
            for role in ROLES
        }
        return {role: json.loads(text) for role, text in texts.items() if text is not None}


def read_parameter(aws: Aws, name: str) -> str | None:
    """The decrypted value; None if there is none."""
    try:
        return aws.ssm.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    except aws.ssm.exceptions.ParameterNotFound:
        return None
