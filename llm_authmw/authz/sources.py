"""Grants, held against the sources that callers come from.

One that could never give its role, or could give it on the word of the wrong source, is a mistake that is found at start-up.
"""

from collections.abc import Iterable, Sequence

from llm_authmw.authz.grants import Grant
from llm_authmw.errors import ConfigurationError
from llm_authmw.identity import IdentitySource
from llm_authmw.principal import NAMED_BY_OTHERS


def check_grants(grants: Iterable[Grant], sources: Sequence[IdentitySource], *, whole: bool) -> None:
    """Refuse a grant that does not go with these sources.

    Args:
        grants: The grants.
        sources: The sources that are known.
        whole: Whether there will be no more of them.

    Raises:
        ConfigurationError: a grant rests on what a token says, where several sources could say it; or, once all are known, on an issuer,
            a method or a claim that none of them has.
    """
    for grant in grants:
        believed = [source for source in sources if _may_come_from(grant, source)]
        strangers = [source for source in believed if source.method in NAMED_BY_OTHERS]
        if grant.believes_any_source and grant.realm is None and len(strangers) > 1:
            said_by = ", ".join(sorted({issuer for source in strangers for issuer in source.issuers or (source.method,)}))
            raise ConfigurationError(
                "grants",
                f"give {grant.role!r} on the word of whichever source says so, and there are several ({said_by}): name the issuer=",
            )
        if whole:
            _check_that_it_can_hold(grant, believed)


def _may_come_from(grant: Grant, source: IdentitySource) -> bool:
    if grant.issuer is not None and source.issuers is not None and grant.issuer not in source.issuers:
        return False
    # A function of the user's own may give its principals any method.
    return grant.method is None or source.kept_claims is None or grant.method == source.method


def _check_that_it_can_hold(grant: Grant, believed: Sequence[IdentitySource]) -> None:
    if not believed:
        named = f"issuer {grant.issuer!r}" if grant.issuer is not None else f"method {grant.method!r}"
        raise ConfigurationError("grants", f"give {grant.role!r} to callers of the {named}, whom no authentication layer in front lets in")
    for claim in grant.claims or ():
        if not any(source.kept_claims is None or claim in source.kept_claims for source in believed):
            raise ConfigurationError(
                "grants", f"give {grant.role!r} by the claim {claim!r}, which nobody keeps: name it in ClaimMap(keep=[…]) of the issuer"
            )
