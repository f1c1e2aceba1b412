from __future__ import annotations

import shlex

from cluster.commands.shell import Shell, in_sources


def test_command_keeps_its_words_through_two_shells() -> None:
    argv = ["python", "-m", "x", "a b", "it's", "$HOME", "*"]
    outer = shlex.split(in_sources(argv))
    assert outer[:3] == ["bash", "-i", "-c"]
    # What the inner shell reads: all behind `exec` is the command, word for word.
    inner = shlex.split(outer[3])
    assert inner[inner.index("&&") + 2 :] == argv
    assert inner[: inner.index("&&")] == ["exec", "2>&3", "3>&-;", "cd", "~/conkd"]
    assert outer[4:] == ["3>&2", "2>/dev/null"]


def test_ssh_asks_nothing_and_notices_a_dead_link() -> None:
    shell = Shell(address="192.0.2.1", user="me", key="/key", proxy="ssh -W %h:%p other")
    ssh = shell.ssh()
    assert shell.target == "me@192.0.2.1"
    assert ssh[-2:] == ["-i", "/key"]
    options = dict(it.split("=", 1) for it in ssh if "=" in it)
    assert options["BatchMode"] == "yes"
    assert int(options["ServerAliveInterval"]) * int(options["ServerAliveCountMax"]) <= 15
    assert options["ProxyCommand"] == "ssh -W %h:%p other"


def test_ssh_without_a_key_takes_what_it_finds() -> None:
    assert "-i" not in Shell(address="192.0.2.1", user="me").ssh()
