"""Wrong values for `python -m cluster`; no right line of it names a cluster that is there."""

from __future__ import annotations

from hypothesis import strategies as st

from cluster import __main__ as cluster
from tests.support.wrong_values import (
    ABSENT,
    FILE,
    FOLDERS,
    NO_FLAG,
    UNCHECKED,
    WORDS,
    Command,
    Texts,
    number,
    whole,
)

NO_NAME: Texts = st.sampled_from(["a/b", "..", ".hidden", "with space", "é", "x" * 65])
NO_FILE = {"--cluster": FOLDERS}
CONFIG = "trainer/configs/synthetic.yaml"


def command(*right: str, wrong: dict[str, Texts], **positional: int) -> Command:
    """One command, with the file of no cluster."""
    return Command(
        main=cluster.main,
        right=(*right, *(() if "FILE" in positional else ("--cluster", "ROOT/absent"))),
        wrong=wrong,
        positional=positional,
    )


CLUSTER_COMMANDS = {
    "cluster setup": command(
        "setup",
        "ROOT/absent",
        wrong={
            "FILE": FOLDERS,
            "--shared": st.sampled_from(["", "disk", "10.0.0.1", "/path"]),
            # What is an image's name only the account can say.
            "--image": UNCHECKED,
            "--ssh-from": st.sampled_from(["", "all", "300.0.0.1/8", "203.0.113.7/33"]),
            **dict.fromkeys(("--new-secrets", "--remove", "--with-data", "--yes"), NO_FLAG),
        },
        FILE=1,
    ),
    "cluster up": command(
        "up",
        "ROOT/absent",
        wrong={"FILE": FOLDERS, "--max-hours": number(0.01, 8760), "--dry-run": NO_FLAG},
        FILE=1,
    ),
    "cluster down": command(
        "down",
        "ROOT/absent",
        wrong={"FILE": FOLDERS, **dict.fromkeys(("--force", "--workers-only"), NO_FLAG)},
        FILE=1,
    ),
    "cluster push": command(
        "push",
        "ROOT/data",
        wrong={**NO_FILE, "FOLDERS": ABSENT | FILE, "--replace": NO_FLAG},
        FOLDERS=1,
    ),
    "cluster pull": command(
        "pull",
        "run",
        "ROOT/pulled",
        wrong={**NO_FILE, "NAME": NO_NAME, "FOLDER": FILE},
        NAME=1,
        FOLDER=2,
    ),
    "cluster teachers": command(
        # What the fleet's own parser refuses is its own test's.
        "teachers",
        "status",
        wrong={**NO_FILE, "ACTION": WORDS, "OPTIONS": UNCHECKED},
        ACTION=1,
    ),
    "cluster train": command(
        "train",
        "--config",
        CONFIG,
        wrong={
            **NO_FILE,
            "--config": ABSENT | FILE,
            "--nodes": whole(1, 4096),
            "--min-nodes": whole(1, 1),
            "--slots": whole(1, 64),
            "--name": NO_NAME,
            **dict.fromkeys(("--detach", "--down-after"), NO_FLAG),
            # Settings have a test of their own.
            "OVERRIDES": UNCHECKED,
        },
    ),
    "cluster logs": command("logs", "run", wrong={**NO_FILE, "NAME": NO_NAME}, NAME=1),
    "cluster status": command("status", wrong={**NO_FILE, "--json": NO_FLAG}),
    "cluster stop": command("stop", "run", wrong={**NO_FILE, "NAME": NO_NAME}, NAME=1),
    "cluster bench": command(
        "bench", "scaling", wrong={**NO_FILE, "NAME": WORDS, "OPTIONS": UNCHECKED}, NAME=1
    ),
}
