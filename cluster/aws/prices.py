"""What machines cost, from cluster/prices.yaml: a dated list, for estimates alone."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from cluster.aws.roles import NodeType
from trainer.common.errors import InputError
from trainer.common.text_files import read_text

PRICES = Path(__file__).resolve().parents[1] / "prices.yaml"
OLD_DAYS = 180


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One instance type of the list."""

    usd: float
    """An hour, on demand."""
    vcpus: int
    gpus: int = 0
    gpu: str | None = None
    gpu_gb: int = 0
    """Memory of one GPU."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """The list."""

    as_of: datetime.date
    region: str
    instances: Mapping[str, Instance]
    storage: Mapping[str, float]
    """US dollars for a GB and month."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """US dollars an hour of a file's nodes. Types that the list lacks are not in the sums."""

    least: float
    """The head and what runs without work."""
    most: float
    """All nodes that the file allows at once, spot nodes at the price on demand."""
    unknown: tuple[str, ...]


def read_prices(path: Path = PRICES) -> Prices:
    """The checked list.

    Raises:
        MissingError, InputError: if it is not there, or not such a list.
    """
    try:
        content = yaml.safe_load(read_text(path))
        instances = {name: Instance(**entry) for name, entry in content["instances"].items()}
        prices = Prices(
            as_of=content["as_of"],
            region=content["region"],
            instances=instances,
            storage=content["storage"],
        )
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} must be a list of prices, got: {error}. Take ours again."
        ) from error
    wrong = [name for name, it in instances.items() if not 0 < it.usd < 1000]
    if wrong or not isinstance(prices.as_of, datetime.date):
        raise InputError(
            f"{path} must have a date and prices of an hour in dollars, got others for "
            f"{', '.join(wrong) or 'as_of'}. Correct it."
        )
    return prices


def cost_of(prices: Prices, types: Sequence[NodeType], *, max_workers: int) -> Cost:
    """What the node types of a file cost an hour; `max_workers` bounds all workers together."""
    known = [it for it in types if it.instance_type in prices.instances]
    usd = {it.name: prices.instances[it.instance_type].usd for it in known}
    least = sum(usd[it.name] * it.min_nodes for it in known)
    most, left = sum(usd[it.name] for it in known if it.role == "head"), max_workers
    # The dearest first: so much it can cost at once.
    for it in sorted(known, key=lambda it: -usd[it.name]):
        if it.role != "head":
            nodes = min(it.max_nodes, left)
            most, left = most + nodes * usd[it.name], left - nodes
    unknown = sorted({it.instance_type for it in types} - {it.instance_type for it in known})
    return Cost(least=least, most=most, unknown=tuple(unknown))


def price_line(prices: Prices, cost: Cost, *, region: str, today: datetime.date) -> str:
    """The estimate in one or two sentences, with what limits it."""
    line = (
        f"an hour costs about ${cost.least:.2f} at rest and ${cost.most:.2f} at most (spot at the "
        f"price on demand), disks and EFS not counted; prices of {prices.as_of} in {prices.region}"
    )
    if (today - prices.as_of).days > OLD_DAYS:
        line += ", which are old"
    if region != prices.region:
        line += f", not of {region}"
    if cost.unknown:
        line += f"; no price is known for {', '.join(cost.unknown)}"
    return line
