"""A rank of a run whose second rank has overrides of its own, as if it was started by hand.

deepspeed --num_accelerators 2 tests/support/split_rank.py OVERRIDES main's arguments
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.getcwd())

from trainer.common.cli import run_rank
from trainer.main import main

if __name__ == "__main__":
    arguments = [each for each in sys.argv[1:] if not each.startswith("--local_rank")]
    overrides, *shared = arguments
    own = overrides.split(",") if os.environ["RANK"] == "1" else []
    run_rank(lambda _: main([*shared, *own]))
