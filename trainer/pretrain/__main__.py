"""Fit and export one frozen model.

python -m trainer.pretrain dialogue|recommendation|classifier --config FILE --output DIR
                           [key=value ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.common.cli import run_rank
from trainer.common.outputs import check_output
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.kinds.names import DIALOGUE, RECOMMENDATION
from trainer.pretrain.classifier import ClassifierConfig, fit_classifier
from trainer.pretrain.dialogue import fit_dialogue
from trainer.pretrain.recommendation import RecommendationConfig, fit_recommendation


def _dialogue(config: Path, overrides: list[str], output: Path) -> None:
    fit_dialogue(load_config(RunConfig, config, [*overrides, f"output={output / 'run'}"]), output)


def _recommendation(config: Path, overrides: list[str], output: Path) -> None:
    fit_recommendation(load_config(RecommendationConfig, config, overrides), output)


def _classifier(config: Path, overrides: list[str], output: Path) -> None:
    fit_classifier(load_config(ClassifierConfig, config, overrides), output)


FITS = {DIALOGUE: _dialogue, RECOMMENDATION: _recommendation, "classifier": _classifier}


def main(argv: list[str]) -> None:
    """Parse the kind and its config, then fit."""
    parser = argparse.ArgumentParser(prog="python -m trainer.pretrain")
    parser.add_argument("kind", choices=list(FITS))
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the kind's config")
    parser.add_argument("--output", type=Path, required=True, help="folder of the frozen model")
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data=build/redial")
    arguments = parser.parse_intermixed_args(argv)
    check_output("--output", arguments.output)
    FITS[arguments.kind](arguments.config, arguments.overrides, arguments.output)


if __name__ == "__main__":
    run_rank(main)
