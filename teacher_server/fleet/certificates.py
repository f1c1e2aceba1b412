"""A development set of certificates for one fleet: a CA, a server and a client.

The CA signs these two and its key is never written, so the set cannot be extended.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from trainer.common.errors import InputError
from trainer.security.credentials import CA_NAME, SERVER_NAME

# Tolerated difference between the clocks of the nodes.
SKEW = datetime.timedelta(hours=1)
CLIENT_NAME = "students.conkd.internal"
# A client must not be able to pass for a server. A server dials, too: a teacher without Ray
# registers with the Directory, which lets servers alone do so.
USAGES = {
    "server": (SERVER_NAME, (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)),
    "client": (CLIENT_NAME, (ExtendedKeyUsageOID.CLIENT_AUTH,)),
}


def make_certificates(
    folder: Path, *, days: int, now: datetime.datetime | None = None
) -> list[Path]:
    """Write ca.pem and certificate and key (mode 0600) of server and client; returns the paths.

    Args:
        folder: made with mode 0700 if it is not there.
        days: how long the certificates are valid from `now` on (None: the present).

    Raises:
        InputError: if one of the files is there; then none is written.
    """
    begin = now or datetime.datetime.now(datetime.timezone.utc)
    period = (begin - SKEW, begin + datetime.timedelta(days=days))
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _ca_certificate(ca_key, period)
    contents = {CA_NAME: ca.public_bytes(Encoding.PEM)}
    for role in USAGES:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(role, key, ca=ca, ca_key=ca_key, period=period)
        contents[f"{role}.pem"] = certificate.public_bytes(Encoding.PEM)
        contents[f"{role}.key"] = key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    taken = [name for name in contents if os.path.lexists(folder / name)]
    if taken:
        raise InputError(
            f"--output must hold no certificates yet, got {folder / taken[0]}. "
            "Name another folder, or remove the set there."
        )
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in contents.items():
        _write_new(folder / name, content, mode=0o600 if name.endswith(".key") else 0o644)
    return [folder / name for name in contents]


def _ca_certificate(
    key: ec.EllipticCurvePrivateKey, period: tuple[datetime.datetime, datetime.datetime]
) -> x509.Certificate:
    name = _name("conkd development CA")
    builder = _builder(name, name, key=key.public_key(), period=period)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    return builder.sign(key, hashes.SHA256())


def _certificate(
    role: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    period: tuple[datetime.datetime, datetime.datetime],
) -> x509.Certificate:
    name, usages = USAGES[role]
    builder = _builder(_name(name), ca.subject, key=key.public_key(), period=period)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=True)
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    builder = builder.add_extension(names, critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return builder.add_extension(issuer, critical=False).sign(ca_key, hashes.SHA256())


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    *,
    key: ec.EllipticCurvePublicKey,
    period: tuple[datetime.datetime, datetime.datetime],
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(period[0]).not_valid_after(period[1])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key)
    return builder.add_extension(identifier, critical=False)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_new(path: Path, content: bytes, *, mode: int) -> None:
    # Never wider than its mode, not even for a moment; never over a file that came meanwhile.
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
