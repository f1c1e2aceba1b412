"""What machines cost an hour, from the dated file beside the cluster's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from trainer.common.errors import InputError

FILE = Path(__file__).resolve().parents[1] / "prices.yaml"


@dataclass(frozen=True, kw_only=True)
class PriceList:
    """Dollars an hour by instance type, on demand, of one day."""

    date: str
    on_demand: dict[str, float]

    def hourly(self, instance_type: str) -> float:
        """Dollars an hour; InputError for a type that the file has not."""
        if instance_type not in self.on_demand:
            raise InputError(
                f"{FILE.name} must have every instance type of the model, got none of "
                f"{instance_type}. Add its price of an hour."
            )
        return self.on_demand[instance_type]


def read_prices(path: Path = FILE) -> PriceList:
    """The prices of a file."""
    content = yaml.safe_load(path.read_text())
    return PriceList(date=str(content["date"]), on_demand=dict(content["on_demand"]))
