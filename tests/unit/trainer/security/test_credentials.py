from __future__ import annotations

import datetime
import stat
from contextlib import nullcontext
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from teacher_server.fleet.certificates import make_certificates
from trainer.common.errors import InputError
from trainer.config.teachers import TeachersConfig
from trainer.main import parse
from trainer.security.addresses import host_of, is_loopback
from trainer.security.credentials import (
    SERVER_NAME,
    SecurityFiles,
    check_host,
    read_credentials,
    read_identity,
    read_token,
)
from trainer.student_run import checked_input

TOKEN = "0123456789abcdef" * 4
NOW = datetime.datetime.now(datetime.timezone.utc)
DAY = datetime.timedelta(days=1)
NAMES = ["ca.pem", "server.pem", "server.key", "client.pem", "client.key"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_certificates(tmp_path / "tls", days=1)
    return tmp_path / "tls"


def token_file(folder: Path, text: str = TOKEN, mode: int = 0o600) -> Path:
    path = folder / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.9", "::1", "localhost"])
def test_is_loopback_of_this_machine_is_true(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "head", "127.example.org", "127.1", "ipv4:127.0.0.1", ""]
)
def test_is_loopback_of_anything_else_is_false(host: str) -> None:
    assert not is_loopback(host)


def test_host_of_address_drops_port_and_brackets() -> None:
    addresses = ["127.0.0.1:5", "head:5", "[::1]:5", "ipv4:127.0.0.1:1,192.0.2.1:2", "localhost"]
    expected = ["127.0.0.1", "head", "::1", "ipv4:127.0.0.1:1,192.0.2.1", "localhost"]
    assert [host_of(address) for address in addresses] == expected


def test_check_host_beyond_this_machine_needs_both_or_consent() -> None:
    check_host("it", "127.0.0.1", SecurityFiles(), remedy="")
    check_host("it", "192.0.2.1", SecurityFiles(tls="t", token_file="f"), remedy="")
    check_host("it", "192.0.2.1", SecurityFiles(insecure=True), remedy="")
    for files in (SecurityFiles(), SecurityFiles(tls="t"), SecurityFiles(token_file="f")):
        with pytest.raises(
            ValueError, match=r"it must be a loopback .* got 192\.0\.2\.1\. Do so\."
        ):
            check_host("it", "192.0.2.1", files, remedy="Do so.")


def test_teachers_config_with_an_unprotected_directory_names_the_keys() -> None:
    with pytest.raises(ValueError, match=r"teachers\.directory must .* Set teachers\.tls and"):
        TeachersConfig(directory="head:50051", tls="t")
    assert TeachersConfig(directory="head:50051", tls="t", token_file="f").tls == "t"
    assert TeachersConfig(directory="head:50051", insecure=True).insecure


def test_read_credentials_of_a_good_set_gives_what_lies_there(folder: Path) -> None:
    files = SecurityFiles(tls=str(folder), token_file=str(token_file(folder, f"{TOKEN}\n")))
    for role in ("server", "client"):
        read = read_credentials(files, role)
        assert read.token == TOKEN
        assert read.identity is not None
        assert read.identity.ca == (folder / "ca.pem").read_bytes()
        assert read.identity.key == (folder / f"{role}.key").read_bytes()
        assert TOKEN not in repr(read) and "PRIVATE" not in repr(read)
    nothing = read_credentials(SecurityFiles(), "server")
    assert (nothing.identity, nothing.token) == (None, None)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o660])
def test_secret_that_others_may_read_is_refused(folder: Path, mode: int) -> None:
    path = token_file(folder, mode=mode)
    with pytest.raises(ValueError, match=rf"owner alone, got mode {mode:04o}\. Run: chmod 600"):
        read_token(path)
    (folder / "client.key").chmod(mode)
    with pytest.raises(ValueError, match=rf"client\.key must be readable by its owner .*{mode:o}"):
        read_identity(folder, "client")
    assert read_identity(folder, "server")


@pytest.mark.parametrize("gamma", [0.4, 0.0])
def test_student_that_asks_teachers_checks_its_token_before_any_rank_joins(
    prepared_dir: Path, tmp_path: Path, gamma: float
) -> None:
    path = token_file(tmp_path, mode=0o644)
    settings = [f"data={prepared_dir}", f"output={tmp_path / 'run'}", f"distill.gamma={gamma}"]
    settings += [f"teachers.token_file={path}", "train.batch_size=1"]
    (tmp_path / "run.yaml").touch()
    expected = pytest.raises(ValueError, match="owner alone") if gamma else nullcontext()
    with expected:
        checked_input(parse(["--config", str(tmp_path / "run.yaml"), *settings]))


@pytest.mark.parametrize("text", ["", TOKEN[:31], f"{TOKEN} {TOKEN}", TOKEN + "ä", "a" * 1025])
def test_read_token_of_no_token_is_refused_without_telling_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="must hold one token of 32 to 1024") as refused:
        read_token(token_file(tmp_path, text))
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize("name", ["ca.pem", "client.pem", "client.key"])
def test_read_identity_with_a_file_that_is_missing_or_torn_names_it(
    folder: Path, name: str
) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=f"{name} must (hold certificates|be a private key)"):
        read_identity(folder, "client")
    path.unlink()
    with pytest.raises(ValueError, match=f"{name} must be a file that we may read, got: No such"):
        read_identity(folder, "client")


def test_read_identity_with_the_key_of_another_certificate_is_refused(folder: Path) -> None:
    (folder / "client.key").write_bytes((folder / "server.key").read_bytes())
    with pytest.raises(ValueError, match=r"client\.key must be the key of .*client\.pem"):
        read_identity(folder, "client")


@pytest.mark.parametrize("begin", [NOW - 2 * DAY, NOW + 2 * DAY])
def test_read_identity_outside_its_period_is_refused(
    tmp_path: Path, begin: datetime.datetime
) -> None:
    make_certificates(tmp_path, days=1, now=begin)
    with pytest.raises(ValueError, match=r"client\.pem must be valid now, got a certificate for"):
        read_identity(tmp_path, "client")


def test_make_certificates_writes_five_files_and_keys_for_us_alone(tmp_path: Path) -> None:
    paths = make_certificates(tmp_path / "a" / "tls", days=1)
    assert sorted(path.name for path in paths) == sorted(NAMES)
    assert {path.name for path in (tmp_path / "a" / "tls").iterdir()} == set(NAMES)
    for path in paths:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == (0 if path.suffix == ".key" else 0o44)


def test_make_certificates_signs_no_client_as_a_server(folder: Path) -> None:
    ca, server, client = (
        x509.load_pem_x509_certificate((folder / name).read_bytes())
        for name in ("ca.pem", "server.pem", "client.pem")
    )
    for leaf in (server, client):
        leaf.verify_directly_issued_by(ca)
        key = leaf.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME]
    usages = [
        list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for leaf in (server, client)
    ]
    server_auth, client_auth = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    # A server registers with the Directory as a client; no client can pass for a server.
    assert usages == [[server_auth, client_auth], [client_auth]]


def test_make_certificates_over_one_that_is_there_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "client.key").write_text("mine")
    with pytest.raises(InputError, match=r"must hold no certificates yet, got .*client\.key"):
        make_certificates(tmp_path, days=1)
    assert [path.name for path in tmp_path.iterdir()] == ["client.key"]
    assert (tmp_path / "client.key").read_text() == "mine"
