"""An authority that issues client certificates: good ones, and ones that no honest authority would sign."""

import base64
import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from llm_authmw.certificates.certificate import Certificate
from llm_authmw.certificates.headers import HeaderForm
from llm_authmw.certificates.parse import parse_certificate

NOT_BEFORE: Final = 1_700_000_000.0
"""From when certificates of a test are valid, unless it says otherwise: long ago by the machine's clock and by `ManualClock`."""
NOT_AFTER: Final = 4_000_000_000.0


class IssuedCertificate(msgspec.Struct, frozen=True):
    """A certificate and its key.

    Attributes:
        der: The certificate.
        key: The private key, as PEM.
    """

    der: bytes
    key: str

    @property
    def pem(self) -> str:
        """The certificate as PEM."""
        return x509.load_der_x509_certificate(self.der).public_bytes(Encoding.PEM).decode()

    def in_header(self, form: HeaderForm) -> bytes:
        """Return the certificate as a proxy hands it on in a header."""
        escaped = quote(self.pem, safe="").encode()
        if form == "nginx":
            return escaped
        return b'Cert="%b"' % escaped if form == "xfcc" else b":%b:" % base64.b64encode(self.der)

    @property
    def parsed(self) -> Certificate:
        """What the certificate says, as a layer reads it."""
        return parse_certificate(self.der)

    def __repr__(self) -> str:
        return "IssuedCertificate(…)"


class CertificateAuthority:
    """An authority of its own.

    Args:
        name: Its name. Two authorities may bear the same one.
        not_before: Seconds since 1970 from which its own certificate is valid.
        not_after: Seconds since 1970 until which it is.
    """

    def __init__(self, name: str = "Test CA", *, not_before: float = NOT_BEFORE, not_after: float = NOT_AFTER) -> None:
        self._key: Final = ec.generate_private_key(ec.SECP256R1())
        self._name: Final = _name(name)
        self._own: Final = self._certificate(self._name, self._key, not_before, not_after, ca=True).sign(self._key, hashes.SHA256())

    @property
    def pem(self) -> str:
        """Its own certificate, as PEM."""
        return self._own.public_bytes(Encoding.PEM).decode()

    def issue(
        self,
        *,
        dns: Sequence[str] = (),
        uri: Sequence[str] = (),
        email: Sequence[str] = (),
        ip: Sequence[str] = (),
        common_name: str = "",
        not_before: float = NOT_BEFORE,
        not_after: float = NOT_AFTER,
        ca: bool = False,
        signs: bool = False,
        patch: tuple[bytes, bytes] | None = None,
    ) -> IssuedCertificate:
        """Issue a certificate.

        Args:
            dns: DNS names.
            uri: URIs.
            email: E-mail addresses.
            ip: IP addresses.
            common_name: The subject's common name; an empty subject where it is empty.
            not_before: Seconds since 1970 from which it is valid.
            not_after: Seconds since 1970 until which it is.
            ca: Whether it is an authority's.
            signs: Whether its key may sign certificates, though it is no authority's.
            patch: Bytes to be replaced in what is issued, by as many others: what no builder would write. The signature then fits
                no more.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._certificate(_name(common_name), key, not_before, not_after, ca=ca, signs=signs)
        names: list[x509.GeneralName] = [
            *(x509.DNSName(value) for value in dns),
            *(x509.UniformResourceIdentifier(value) for value in uri),
            *(x509.RFC822Name(value) for value in email),
            *(x509.IPAddress(ipaddress.ip_address(value)) for value in ip),
        ]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not common_name)
        der = builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.DER)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return IssuedCertificate(der if patch is None else der.replace(*patch), private)

    def _certificate(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, not_before: float, not_after: float, *, ca: bool, signs: bool = False
    ) -> x509.CertificateBuilder:
        # All that a strict verifier asks for (RFC 5280 §4.2.1).
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(not_before, UTC))
            .not_valid_after(datetime.fromtimestamp(not_after, UTC))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        usage = x509.KeyUsage(
            digital_signature=not ca,
            key_cert_sign=ca or signs,
            crl_sign=ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        return builder.add_extension(usage, critical=True)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])
