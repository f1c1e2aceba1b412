"""Fit and export one frozen model.

python -m trainer.pretrain dialogue|recommendation|classifier --config FILE --output DIR
                           [key=value ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from trainer.common.cli import run_rank
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.pretrain.classifier import ClassifierConfig, fit_classifier
from trainer.pretrain.dialogue import fit_dialogue
from trainer.pretrain.recommendation import RecommendationConfig, fit_recommendation


def main(argv: list[str]) -> None:
    """Parse the kind and its config, then fit."""
    parser = argparse.ArgumentParser(prog="python -m trainer.pretrain")
    parser.add_argument("kind", choices=["dialogue", "recommendation", "classifier"])
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the kind's config")
    parser.add_argument("--output", type=Path, required=True, help="folder of the frozen model")
    parser.add_argument("--local_rank", type=int, default=0, help="set by the deepspeed launcher")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data=build/redial")
    arguments = parser.parse_intermixed_args(argv)
    path, output, overrides = arguments.config, arguments.output, arguments.overrides
    if arguments.kind == "dialogue":
        overrides = [*overrides, f"output={output / 'run'}"]
        fit_dialogue(load_config(RunConfig, path, overrides), output)
    elif arguments.kind == "recommendation":
        fit_recommendation(load_config(RecommendationConfig, path, overrides), output)
    else:
        fit_classifier(load_config(ClassifierConfig, path, overrides), output)


if __name__ == "__main__":
    run_rank(main)
