"""Certificates of another CA are told apart from those that running students trust."""

from __future__ import annotations

from pathlib import Path

import pytest

from teacher_server.fleet.certificates import make_certificates
from teacher_server.fleet.trust import authorities, distrust, dropped
from trainer.security.credentials import NO_SECURITY, SecurityFiles


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("sets")
    for name in ("old", "new"):
        make_certificates(root / name, days=1)
    return root / "old", root / "new"


def folder_of(root: Path, servers: Path, *cas: Path) -> SecurityFiles:
    """A folder with the server's certificate of one set and the CAs of some."""
    root.mkdir()
    for name in ("server.pem", "server.key"):
        (root / name).touch(0o600)
        (root / name).write_bytes((servers / name).read_bytes())
    (root / "ca.pem").write_text("".join((ca / "ca.pem").read_text() for ca in cas))
    return SecurityFiles(tls=str(root))


def test_certificate_of_a_ca_that_was_there_before_is_trusted(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = sets
    only_old = authorities(folder_of(tmp_path / "before", old, old))
    both = authorities(folder_of(tmp_path / "both", old, old, new))
    assert len(only_old) == 1 and len(both) == 2 and both[0] == only_old[0]
    assert distrust(folder_of(tmp_path / "same", old, old, new), only_old) == ""
    assert distrust(folder_of(tmp_path / "next", new, old, new), both) == ""


@pytest.mark.parametrize("now_holds", ["both", "new", "old"])
def test_certificate_of_a_ca_that_was_not_there_names_what_must_be_done_first(
    now_holds: str, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = sets
    before = authorities(folder_of(tmp_path / "before", old, old))
    cas = {"both": (old, new), "new": (new,), "old": (old,)}[now_holds]
    why = distrust(folder_of(tmp_path / "now", new, *cas), before)
    assert "now/server.pem is signed by CN=conkd development CA, a CA that ca.pem did not" in why
    assert why.endswith("ca.pem with both CAs on all nodes, roll, and start the students again.")


def test_ca_that_is_gone_is_told_for_students_whose_certificate_it_signed(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = sets
    both = folder_of(tmp_path / "both", new, old, new)
    assert dropped(both, authorities(both)) == ""
    why = dropped(folder_of(tmp_path / "now", new, new), authorities(both))
    assert "now/ca.pem lacks 1 of the CAs" in why and "client.pem" in why


def test_nothing_is_said_without_tls_and_of_a_fleet_whose_cas_were_not_recorded(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    assert authorities(NO_SECURITY) == []
    assert distrust(NO_SECURITY, ()) == dropped(NO_SECURITY, ()) == ""
    assert distrust(folder_of(tmp_path / "now", sets[1], sets[1]), ()) == ""
