"""Talk to a trained model: `python -m trainer.chat --checkpoint DIR`."""

from __future__ import annotations

from trainer.cli import run_main
from trainer.evaluation.chat import main

if __name__ == "__main__":
    run_main(main)
