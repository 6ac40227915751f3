"""Certificates for TLS in both directions, made for one run."""

import datetime as dt
import ssl
from typing import Final

import trustme


class Certificates:
    """An authority, a server certificate for loopback, and client certificates.

    Attributes:
        authority: Whom the server and its clients trust.
        stranger: An authority that nobody trusts; its certificates look the same.
        server: The server's certificate, for `127.0.0.1` and `localhost`.
    """

    def __init__(self) -> None:
        self.authority: Final = trustme.CA(organization_name="authmw tests")
        self.stranger: Final = trustme.CA(organization_name="authmw tests")
        self.server: Final = self.authority.issue_cert("127.0.0.1", "localhost")

    def client(self, name: str, *identities: str, authority: trustme.CA | None = None, expired: bool = False) -> trustme.LeafCert:
        """Issue a client certificate.

        Args:
            name: The subject's common name.
            identities: Alternative names: host names, addresses, e-mail addresses; by default `NAME@example.com`.
            authority: Who issues it; by default the one that is trusted.
            expired: Whether it was valid until yesterday.
        """
        end = dt.datetime.now(dt.UTC) + dt.timedelta(days=-1 if expired else 1)
        return (authority or self.authority).issue_cert(*(identities or [f"{name}@example.com"]), common_name=name, not_after=end)

    def context(self, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
        """Return a client's TLS context, which trusts the authority, and shows a certificate if given: `httpx.Client(verify=...)`."""
        context = ssl.create_default_context(cadata=self.authority.cert_pem.bytes().decode())
        if certificate is not None:
            with certificate.private_key_and_cert_chain_pem.tempfile() as path:
                context.load_cert_chain(path)
        return context
