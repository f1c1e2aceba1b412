"""A launcher that starts nothing: each command's output is written as the command would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.launch.child import Command
from tests.support import evaluation_fakes as fakes
from trainer.common.atomic import write_json
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.prepared import PreparedData
from trainer.evaluation.dense_divergence import divergence
from trainer.evaluation.loaded_model import load_model
from trainer.models.frozen import read_card
from trainer.scoring.baselines import baseline_records
from trainer.scoring.records import write_records
from trainer.scoring.scored_split import scored_split


class RecordingLauncher:
    """Runs lanes of commands in this process; `names` are those of the commands, in order."""

    def __init__(self, data: PreparedData, *, fails: Callable[[str], bool] = lambda _: False):
        self.names: list[str] = []
        self.configs: list[RunConfig] = []
        """Of the students that were trained."""
        self._data = data
        self._fails = fails

    def run(
        self, *lanes: Sequence[Command], on_success: Callable[[Command], None] | None = None
    ) -> None:
        """As `Launcher.run`."""
        for command in (command for lane in lanes for command in lane):
            self.names.append(command.name)
            if self._fails(command.name):
                raise KeyboardInterrupt
            self._write_output(command)

    def _write_output(self, command: Command) -> None:
        argv = command.argv
        if "trainer/main.py" in argv:
            self._train(load_config(RunConfig, Path(_value(argv, "--config")), []))
        elif "trainer.evaluation.respond" in argv:
            records = baseline_records("copy", scored_split(self._data, "test"), [])
            write_records(Path(_value(argv, "--output")), records)
        elif "trainer.evaluation.divergence" in argv:
            student = load_model(Path(_value(argv, "--checkpoint")))
            teacher = load_model(Path(_value(argv, "--teacher")))
            sums = divergence(student, teacher, self._data.examples("test"))
            write_json(Path(_value(argv, "--output")), {"sums": sums.to_dict()})
        else:
            assert {"teacher_server", "trainer.targets"} & set(argv), f"unknown command: {argv}"

    def _train(self, config: RunConfig) -> None:
        self.configs.append(config)
        folder, has_teachers = Path(config.output), config.distill.gamma > 0
        fakes.write_run(folder, self._data.vocabulary, config.seed, teachers=has_teachers)
        card = read_card(self._data.root.parent / "dialogue", "dialogue")
        teachers = {"dialogue": f"{card.weights_digest} in float32"} if has_teachers else {}
        write_json(
            folder / "origin.json",
            {
                "format": 3,
                "vocabulary": self._data.vocabulary.digest,
                "examples": "e",
                "weights": {},
                "teachers": teachers,
            },
        )


def _value(argv: Sequence[str], option: str) -> str:
    return argv[argv.index(option) + 1]
