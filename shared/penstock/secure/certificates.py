"""TLS certificates: an authority of the deployment's own, and one certificate for each server.

X.509 as in RFC 5280, keys on the curve P-256. Clients trust this authority and no other, so a certificate from anybody
else, also a publicly trusted one, is refused.
"""

import datetime
import ipaddress
from collections.abc import Sequence
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 398
"""As browsers ask for. A server's certificate is made anew when `RENEW_DAYS` or fewer of them are left."""
RENEW_DAYS: Final = 60
SIDES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_BACKDATED: Final = datetime.timedelta(hours=1)


class Signed(NamedTuple):
    """A certificate and its private key, both PEM."""

    certificate: str
    key: str


def authority(name: str) -> Signed:
    """Make an authority that signs servers' certificates and no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"Penstock authority of {name}")
    builder = (
        _dated(subject, subject, key.public_key(), AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _signed(builder, key, key)


def server(name: str, hosts: Sequence[str], by: Signed) -> Signed:
    """Make a certificate for a server that is reached by these names and addresses, signed by the authority.

    It is good for both sides of a connection: the servers of a cluster prove themselves to one another.
    """
    issuer = x509.load_pem_x509_certificate(by.certificate.encode())
    signing = serialization.load_pem_private_key(by.key.encode(), None)
    if not isinstance(signing, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is no elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _dated(_name(name), issuer.subject, key.public_key(), SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(SIDES), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
        )
    )
    return _signed(builder, key, signing)


def good(certificate: str, hosts: Sequence[str], authority: str) -> bool:
    """Return whether a server's certificate is this authority's, is for all these hosts, and will last."""
    try:
        found = x509.load_pem_x509_certificate(certificate.encode())
        found.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        sides = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except Exception:  # unreadable, or another authority's: cryptography raises a dozen types
        return False
    left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    long = left > datetime.timedelta(days=RENEW_DAYS)
    return long and all(_host(host) in names for host in hosts) and all(side in sides for side in SIDES)


def _dated(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _signed(
    builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey
) -> Signed:
    certificate = builder.sign(by, hashes.SHA256())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Signed(certificate.public_bytes(serialization.Encoding.PEM).decode(), secret.decode())
