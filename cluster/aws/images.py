"""The image that nodes start from: found by id or by a parameter, and checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.aws.session import Aws, code
from trainer.common.errors import InputError

# AWS's own: Ubuntu 24.04 (Python 3.12) with a current NVIDIA driver.
DEFAULT_IMAGE = (
    "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
)
ROOT_DEVICE = "/dev/sda1"
REMEDY = "Name another one: python -m cluster setup FILE --image ami-... or a parameter."


@dataclass(frozen=True, kw_only=True)
class FoundImage:
    """An image that nodes can start from."""

    id: str
    name: str


def resolve(aws: Aws, wanted: str) -> FoundImage:
    """The image of an id, or of the id in a parameter.

    Raises:
        InputError: if there is none, or no node of ours starts from it.
    """
    image_id = wanted if wanted.startswith("ami-") else _in_parameter(aws, wanted)
    found = _described(aws, image_id)
    wrong = {
        "state": (found["State"], "available"),
        "architecture": (found["Architecture"], "x86_64"),
        # The disks in the file are named so; under another name they would be added, unused.
        "root device": (found["RootDeviceName"], ROOT_DEVICE),
    }
    for what, (there, needed) in wrong.items():
        if there != needed:
            raise InputError(f"{what} of image {image_id} must be {needed}, got {there}. {REMEDY}")
    return FoundImage(id=image_id, name=found.get("Name", ""))


def _in_parameter(aws: Aws, name: str) -> str:
    try:
        return aws.ssm.get_parameter(Name=name)["Parameter"]["Value"]
    except aws.ssm.exceptions.ParameterNotFound as error:
        raise InputError(
            f"parameter {name} must hold the id of an image in {aws.region}, got none. {REMEDY}"
        ) from error


def _described(aws: Aws, image_id: str) -> dict[str, Any]:
    from botocore.exceptions import ClientError

    images: list[dict[str, Any]] = []
    try:
        images = aws.ec2.describe_images(ImageIds=[image_id])["Images"]
    except ClientError as error:
        if not code(error).startswith("InvalidAMIID"):
            raise
    if not images:
        raise InputError(f"image {image_id} must be in {aws.region}, got none there. {REMEDY}")
    return images[0]
