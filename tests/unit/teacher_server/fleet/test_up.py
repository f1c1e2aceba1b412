"""Mistakes in the options of `python -m teacher_server`: one error, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from teacher_server.fleet import certificates
from teacher_server.fleet.options import parse, parse_ranges
from teacher_server.fleet.scaling import ReplicaRange
from teacher_server.main import main
from tests.support import tiny_teachers
from trainer.security.credentials import SecurityFiles


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--port", "99999", r"--port must be a whole number in \[1, 65535\], got 99999"),
        ("--port", "0", "--port must be a whole number in"),
        ("--threads", "0", "--threads must be a whole number in"),
        ("--token-budget", "-1", "--token-budget must be a whole number in"),
        ("--num-cpus", "-1", "--num-cpus must be a number in"),
    ],
)
def test_up_option_out_of_range_names_itself(option: str, value: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse(["up", option, value])


def test_parse_ranges_reads_numbers_and_ranges() -> None:
    assert parse_ranges("dialogue=2,recommendation=0..4") == {
        "dialogue": ReplicaRange.of(2),
        "recommendation": ReplicaRange(min=0, max=4),
    }
    assert parse_ranges("") == {}
    wrong = ("dialogue=-1", "dialogue=x", "dialogue", "chess=1", "dialogue=1..x", "dialogue=..2")
    for text in wrong:
        with pytest.raises(ValueError, match=r"KIND=COUNT or KIND=MIN\.\.MAX"):
            parse_ranges(text)
    with pytest.raises(ValueError, match=r"MIN <= MAX, got 'dialogue=3\.\.1'"):
        parse_ranges("dialogue=3..1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("fleet")
    folders = tiny_teachers.write_teachers(root, tiny_teachers.tiny_vocabulary())
    tiny_teachers.write_recommendation_teacher(
        root / "other", tiny_teachers.tiny_vocabulary(num_films=20)
    )
    return folders | {"other": root / "other"}


@pytest.fixture(scope="module")
def security(tmp_path_factory: pytest.TempPathFactory) -> SecurityFiles:
    folder = tmp_path_factory.mktemp("security") / "tls"
    certificates.make_certificates(folder, days=1)
    (folder / "token").touch(0o600)
    (folder / "token").write_text("0123456789abcdef" * 4)
    return SecurityFiles(tls=str(folder), token_file=str(folder / "token"))


def test_up_with_teachers_of_two_vocabularies_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    dialogue, other, fleet = str(folders["dialogue"]), str(folders["other"]), tmp_path / "fleet"
    cases = {
        "must share one vocabulary": ["up", "--dialogue", dialogue, "--recommendation", other],
        "must be a frozen dialogue model": ["up", "--dialogue", str(tmp_path)],
        "Give --tls and --token-file": ["up", "--dialogue", dialogue, "--host", "0.0.0.0"],
        "a fleet must be up": ["status"],
    }
    for message, arguments in cases.items():
        with pytest.raises((ValueError, OSError), match=message):
            main([*arguments, "--fleet", str(fleet)])
    assert not fleet.exists()


def test_up_with_security_of_no_use_is_refused_before_anything_starts(
    folders: dict[str, Path], tmp_path: Path, security: SecurityFiles
) -> None:
    tls, token = str(security.tls), str(security.token_file)
    open_token = tmp_path / "token"
    open_token.write_text("0123456789abcdef" * 4)
    open_token.chmod(0o644)
    beyond = ["--host", "0.0.0.0"]
    cases = {
        "--host must be a loopback .* got 0": [*beyond, "--tls", tls],
        "--host must be a loopback .* without": [*beyond, "--token-file", token],
        "ca.pem must be a file that we may read": ["--tls", str(tmp_path)],
        "token must be readable by its owner alone": ["--token-file", str(open_token)],
    }
    fleet = tmp_path / "fleet.json"
    for message, options in cases.items():
        with pytest.raises(ValueError, match=message):
            main(["up", "--dialogue", str(folders["dialogue"]), "--fleet", str(fleet), *options])
    assert not fleet.exists()
