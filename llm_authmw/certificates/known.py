"""What the rules say of a certificate, remembered: the same one comes with every request of its owner."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from llm_authmw.certificates.certificate import Certificate
from llm_authmw.certificates.rules import Accepted, CertRule
from llm_authmw.principal import Assurance

MAX_REMEMBERED: Final = 1024


class KnownCertificate(NamedTuple):
    """What is known of a certificate.

    Attributes:
        certificate: What it says.
        accepted: What the first rule that it fits says; None where it fits none.
    """

    certificate: Certificate
    accepted: Accepted | None


class KnownCertificates:
    """Judges certificates by rules, and remembers what came of it: both only depend on the certificate.

    Args:
        rules: The first one that a certificate fits decides.
        assurance: How the channel shows that whoever presents a certificate holds its key.
    """

    def __init__(self, rules: Sequence[CertRule], assurance: Assurance) -> None:
        self._rules: Final = tuple(rules)
        self._assurance: Final = assurance
        self._known: Final[dict[bytes, KnownCertificate]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, presented: bytes, read: Callable[[bytes], Certificate]) -> KnownCertificate:
        """Return what is known of a certificate, as it was presented.

        Args:
            presented: The header's value, PEM or DER.
            read: Reads it; always the same function for one object.

        Raises:
            InvalidValueError: it cannot be read, which is not remembered.
        """
        # A digest, since the values themselves are long, and strangers choose them.
        digest = hashlib.sha256(presented).digest()
        known = self._known.get(digest)
        if known is None:
            certificate = read(presented)
            known = KnownCertificate(certificate, self._judge(certificate))
            while len(self._known) >= MAX_REMEMBERED:
                self._known.pop(next(iter(self._known)), None)
            self._known[digest] = known
        return known

    def _judge(self, certificate: Certificate) -> Accepted | None:
        for rule in self._rules:
            accepted = rule.match(certificate, self._assurance)
            if accepted is not None:
                return accepted
        return None
