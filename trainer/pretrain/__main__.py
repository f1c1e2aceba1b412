"""Fit and export one frozen model.

python -m trainer.pretrain dialogue|recommendation|classifier --config FILE --output DIR
                           [key=value ...]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer.common.cli import once_per_node, run_rank
from trainer.common.command import MAX_RANKS, CommandParser, whole
from trainer.common.errors import InputError
from trainer.common.outputs import check_output
from trainer.config.pretrain import ClassifierConfig, RecommendationConfig
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.kinds.names import DIALOGUE, RECOMMENDATION

CLASSIFIER = "classifier"
CONFIGS: dict[str, type] = {
    DIALOGUE: RunConfig,
    RECOMMENDATION: RecommendationConfig,
    CLASSIFIER: ClassifierConfig,
}


def main(argv: list[str]) -> None:
    """Parse the kind and its config, then fit."""
    kind, config, output = once_per_node(lambda: parse(argv))
    FITS[kind](config, output)


# The fits are imported after parsing: a mistake in the command line must not wait for torch.
def _dialogue(config: RunConfig, output: Path) -> None:
    from trainer.pretrain.dialogue import fit_dialogue

    fit_dialogue(config, output)


def _recommendation(config: RecommendationConfig, output: Path) -> None:
    from trainer.pretrain.recommendation import fit_recommendation

    fit_recommendation(config, output)


def _classifier(config: ClassifierConfig, output: Path) -> None:
    from trainer.pretrain.classifier import fit_classifier

    fit_classifier(config, output)


FITS: dict[str, Callable[[Any, Path], None]] = {
    DIALOGUE: _dialogue,
    RECOMMENDATION: _recommendation,
    CLASSIFIER: _classifier,
}


def parse(argv: list[str]) -> tuple[str, Any, Path]:
    """The kind, its config, and the folder of the frozen model."""
    parser = CommandParser(
        prog="python -m trainer.pretrain",
        description="Fit and export one frozen model.",
        epilog="Settings of each kind: docs/training.md, and trainer/configs/pretrain/.",
    )
    parser.add_argument("kind", choices=list(CONFIGS))
    parser.add_argument("--config", type=Path, required=True, help="YAML file of the kind's config")
    parser.add_argument("--output", type=Path, required=True, help="folder of the frozen model")
    parser.add_argument(
        "--local_rank", type=whole(0, MAX_RANKS), help="set by the deepspeed launcher"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. data=build/redial")
    arguments = parser.parse_intermixed_args(argv)
    check_output("--output", arguments.output)
    overrides = arguments.overrides
    if arguments.kind == DIALOGUE:
        given = [each for each in overrides if each.partition("=")[0] == "output"]
        if given:
            raise InputError(
                f"the run of a dialogue teacher must be in OUTPUT/run, got {given[0]}. Leave it "
                "out, or give another --output."
            )
        overrides = [*overrides, f"output={arguments.output / 'run'}"]
    config = load_config(CONFIGS[arguments.kind], arguments.config, overrides)
    return arguments.kind, config, arguments.output


if __name__ == "__main__":
    run_rank(main)
