"""The authority that has signed a certificate: found out by its key, not by the name that a certificate gives it."""

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from llm_authmw.certificates.certificate import Certificate
from llm_authmw.certificates.parse import extension, from_pem
from llm_authmw.errors import ConfigurationError
from llm_authmw.secrets import Secret, resolve_secret


def signed_by(certificate: Certificate, authority: x509.Certificate) -> bool:
    """Say whether the authority has signed this certificate itself, with no other authority between them."""
    if certificate.der is None:
        return False
    try:
        # It knows no MD5 and no SHA-1, under which a certificate of somebody else's making might stand.
        x509.load_der_x509_certificate(certificate.der).verify_directly_issued_by(authority)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False
    return True


def read_authority(option: str, value: str | Secret) -> x509.Certificate:
    """Read an authority's certificate: PEM, or a reference such as `file:PATH`.

    Raises:
        ConfigurationError: there is none, there are several, or it is a certificate that signs no others.
    """
    problem = "takes the authority's own certificate, as PEM or as 'file:PATH'"
    pem = resolve_secret(option, value).reveal().encode()
    if pem.count(b"-----BEGIN") > 1:
        raise ConfigurationError(option, f"{problem}; these are several, so write a rule for each")
    try:
        authority = x509.load_der_x509_certificate(from_pem(pem))
        constraints = extension(authority, x509.BasicConstraints)
    except ValueError:
        raise ConfigurationError(option, problem) from None
    if constraints is None or not constraints.ca:
        raise ConfigurationError(option, f"{problem}; this one may sign no others")
    return authority
