"""The folder of one cell's run: what it was made by, and which stages are done."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.ablation.revision import Revision, SameRevisions
from trainer.checkpoints.files import CHECKPOINTS_NAME
from trainer.common.atomic import write_json
from trainer.common.text_files import read_json_object

STATE_NAME = "cell.json"
RESPONSES = "responses"
RESPOND = "respond"
DIVERGENCE_NAME = "divergence.json"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run that is made, or was."""

    path: Path

    def responses(self, name: str = "") -> Path:
        """The records of the test split, of a way to answer (`Answering.name`)."""
        return self.path / f"{'-'.join(filter(None, (RESPONSES, name)))}.jsonl"

    @property
    def divergence(self) -> Path:
        """The comparison with the dense dialogue teacher."""
        return self.path / DIVERGENCE_NAME

    @property
    def seconds(self) -> dict[str, float]:
        """Of each finished stage."""
        return dict(self._state().get("seconds", {}))

    def open(self, revision: Revision, settings: Mapping[str, Any], same: SameRevisions) -> None:
        """Start over unless what lies there is of the same training code and settings.

        Responses of other scoring code are made again.
        """
        state = self._state()
        was = Revision(**state.get("revision", {"training": "", "scoring": ""}))
        if not same.are(was.training, revision.training) or state["settings"] != settings:
            shutil.rmtree(self.path, ignore_errors=True)
            state = {"seconds": {}}
        elif not same.are(was.scoring, revision.scoring):
            self._forget_responses()
            state["seconds"] = {
                stage: it
                for stage, it in state["seconds"].items()
                if not stage.startswith((RESPOND, "diverge"))
            }
        of_now = {"training": revision.training, "scoring": revision.scoring}
        write_json(
            self.path / STATE_NAME,
            {"revision": of_now, "settings": dict(settings), "seconds": state["seconds"]},
        )

    def finish(self, stage: str, seconds: float) -> None:
        """Note that a stage is done."""
        state = self._state()
        state["seconds"][stage] = round(seconds, 1)
        write_json(self.path / STATE_NAME, state)

    def forget_checkpoints(self) -> None:
        """Remove what only a run that goes on needs."""
        shutil.rmtree(self.path / CHECKPOINTS_NAME, ignore_errors=True)

    def _forget_responses(self) -> None:
        for path in self.path.glob(f"{RESPONSES}*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _state(self) -> dict[str, Any]:
        path = self.path / STATE_NAME
        return read_json_object(path) if path.is_file() else {}
