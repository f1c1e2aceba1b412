"""Whether students that run can trust the certificate that the next servers will show.

What each student read at its start is not known here; what `ca.pem` held when the fleet was
started, or last rolled, is.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.hashes import SHA256

from trainer.security.credentials import SecurityFiles, read_credentials


def authorities(files: SecurityFiles) -> list[str]:
    """Fingerprints of the CAs that who reads the files now will trust; none without TLS.

    Raises:
        InputError: as `read_credentials`.
    """
    identity = read_credentials(files, "server").identity
    if identity is None:
        return []
    return [_print_of(it) for it in x509.load_pem_x509_certificates(identity.ca)]


def distrust(files: SecurityFiles, before: Collection[str]) -> str:
    """Why students that read `ca.pem` before cannot trust `server.pem` of now; empty if they can.

    Args:
        files: of the fleet.
        before: the `authorities` of then; empty: they are not known.

    Raises:
        InputError: as `read_credentials`.
    """
    identity = read_credentials(files, "server").identity
    if identity is None or not before:
        return ""
    chain = x509.load_pem_x509_certificates(identity.certificates)
    known = x509.load_pem_x509_certificates(identity.ca)
    signers = {_print_of(ca) for ca in known for it in chain if _is_signed_by(it, ca)}
    if not signers.isdisjoint(before) or _print_of(chain[0]) in before:
        return ""
    return (
        f"{Path(str(files.tls)) / 'server.pem'} is signed by {chain[-1].issuer.rfc4514_string()}, "
        "a CA that ca.pem did not hold when this fleet was started or last rolled: students that "
        "read it then will refuse the new replicas, and end when no other is left. Before such a "
        "certificate, have a ca.pem with both CAs on all nodes, roll, and start the students again."
    )


def dropped(files: SecurityFiles, before: Collection[str]) -> str:
    """Why new servers may refuse students of a CA that `ca.pem` held before; empty if it holds all.

    Args and errors: as `distrust`.
    """
    now = authorities(files)
    gone = set(before) - set(now)
    if not now or not gone:
        return ""
    return (
        f"{Path(str(files.tls)) / 'ca.pem'} lacks {len(gone)} of the CAs that it held when this "
        "fleet was started or last rolled: the new replicas will refuse students whose client.pem "
        "one of these has signed, and they end when no other is left. Where there are any, put the "
        "CA back, until all students have been started with certificates of another one."
    )


def _is_signed_by(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        # Another name, a key that cannot sign, another key of the same name.
        return False
    return True


def _print_of(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(SHA256()).hex()
