"""Connections to collectors: certificates are verified, always, and no error quotes what the other side said."""

import os
import socket
import ssl
from typing import TypeAlias

from llm_authmw.errors import ConfigurationError

Path: TypeAlias = str | os.PathLike[str]


def client_context(*, ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> ssl.SSLContext:
    """Return a context that verifies the other side's certificate and its name, with TLS 1.2 or later.

    Args:
        ca_file: PEM with the authorities that are trusted, and no other one is then. Left out: those that the system trusts.
        cert_file: PEM with a client certificate and what leads to its authority.
        key_file: PEM with its private key; left out: it is in `cert_file`.

    Raises:
        ConfigurationError: a file cannot be read, does not hold what it should, or its key is encrypted.
    """
    if key_file is not None and cert_file is None:
        raise ConfigurationError("key_file", "is the key of a client certificate: name `cert_file`, too")
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # what ssl raises is one, too
        raise ConfigurationError("ca_file", f"holds no certificates of authorities that can be read ({type(error).__name__})") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert_file is not None:
        try:
            context.load_cert_chain(cert_file, key_file, password=_no_password)
        except OSError as error:
            problem = f"holds no certificate with its unencrypted key that can be read ({type(error).__name__})"
            raise ConfigurationError("cert_file", problem) from None
    return context


def trouble(error: BaseException) -> str:
    """Say what is wrong with the other side, in a text that is ours: "has a TLS certificate that is not trusted"."""
    cause: BaseException | None = error
    for _ in range(8):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "has a TLS certificate that is not trusted"
        if isinstance(cause, socket.gaierror):
            return "has a name that could not be resolved"
        cause = cause and (cause.__cause__ or cause.__context__)
    return f"could not be reached, or broke off ({type(error).__name__})"


def _no_password() -> str:
    """Return none: left to itself, OpenSSL would ask for one on the terminal and wait."""
    return ""
