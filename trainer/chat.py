"""Talk to a student: you are the seeker, it recommends.

    python -m trainer.chat --checkpoint DIR [--classifier DIR] [--data DIR] [--json]

Name a film as its title and year, in any case, or as @id. /new starts over, /undo takes back the
last text and its answer, /quit, Ctrl-D or Ctrl-C leaves.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.common.cli import run_main
from trainer.common.command import CommandParser

if TYPE_CHECKING:
    from trainer.evaluation.conversation import Answer, Conversation

PROMPT = "you> "
COMMANDS = "/new starts over, /undo takes back the last text and its answer, /quit leaves"


def chat(
    conversation: Conversation,
    lines: Iterable[str],
    write: Callable[[str], object],
    *,
    as_json: bool = False,
) -> None:
    """Answer line by line until there are no more or /quit; blank lines are passed over."""
    for line in lines:
        text = line.strip()
        if text == "/quit":
            return
        if text.startswith("/"):
            said = command(conversation, text)
            write(json.dumps({"command": text, "said": said}) + "\n" if as_json else f"{said}\n")
        elif text:
            answer = conversation.answer(text)
            write(json.dumps({"text": text, **answer.to_dict()}) if as_json else shown(answer))
            write("\n")


def command(conversation: Conversation, text: str) -> str:
    """Do what a line that starts with / says; what is to be said of it."""
    if text == "/new":
        conversation.start_over()
        return "(a new conversation)"
    if text == "/undo":
        return "(taken back)" if conversation.undo() else "(there is nothing to take back)"
    return f"({text.split()[0]} is no command: {COMMANDS})"


def shown(answer: Answer) -> str:
    """An answer for people: hints about what they typed, then what the model says."""
    hints = [f"({hint})" for hint in answer.hints]
    return "\n".join([*hints, f"recommender> {answer.text or f'({answer.reason})'}"])


def typed_lines(*, as_json: bool = False) -> Iterator[str]:
    """What the user types, until Ctrl-D; bytes that are no UTF-8 become U+FFFD.

    With `as_json` the prompt stands in stderr, and stdout holds objects alone.
    """
    is_terminal = sys.stdin.isatty()
    if is_terminal and not as_json:
        # Its import gives `input` arrow keys and a history, and stdout their control characters;
        # some builds of Python lack it.
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    while True:
        if is_terminal and as_json:
            sys.stderr.write(PROMPT)
            sys.stderr.flush()
        try:
            yield input(PROMPT if is_terminal and not as_json else "")
        except EOFError:
            if is_terminal:
                end_line(as_json=as_json)
            return


def end_line(*, as_json: bool) -> None:
    """End the line of a prompt that nobody answered."""
    (sys.stderr if as_json else sys.stdout).write("\n")


def main(argv: list[str]) -> None:
    """Load the model, then talk."""
    arguments = parse(argv)
    # Not above: a mistake in the command line must not wait for torch.
    from trainer.evaluation.conversation import load_conversation

    conversation = load_conversation(arguments.checkpoint, arguments.classifier, arguments.data)
    try:
        lines = typed_lines(as_json=arguments.json)
        chat(conversation, lines, flushed, as_json=arguments.json)
    except KeyboardInterrupt:
        # Ctrl-C is a way to leave a chat, not a failure.
        end_line(as_json=arguments.json)


def parse(argv: list[str]) -> argparse.Namespace:
    """The model, and what it reads."""
    parser = CommandParser(
        prog="python -m trainer.chat",
        description="Talk to a trained model: you are the seeker, it recommends.",
        epilog=f"Name a film as its title and year, Titanic (1997), or as @id. {COMMANDS}.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="run or model folder")
    parser.add_argument("--classifier", help="folder of the turn classifier")
    parser.add_argument(
        "--data", type=Path, help="prepared folder, for a model that reads its graph"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each line")
    return parser.parse_args(argv)


def flushed(text: str) -> None:
    """Write to stdout at once: whoever pipes a chat waits for each answer."""
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    run_main(main)
