"""What is filled in for products, and what each still has to be told."""

from typing import Any

import pytest

from llm_authmw import ClaimMap, ConfigurationError, Issuer, TokenInvalid
from llm_authmw.testing import ManualClock, TestIssuer, make_signing_key
from llm_authmw.testing.issuer import SigningKey
from llm_authmw.tokens.presets import preset

pytestmark = pytest.mark.anyio

TENANT = "1f6f0d2c-0000-4000-8000-5d1c7a9e1b11"
ARN = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/llm/50dc6c495c0c9188"
RSA = make_signing_key("RS256", kid="rsa")

PRODUCTS: dict[str, tuple[str, dict[str, Any]]] = {
    "entra": (f"https://login.microsoftonline.com/{TENANT}/v2.0", {"tenant": TENANT}),
    "google": ("https://accounts.google.com", {}),
    "okta": ("https://corp.okta.com/oauth2/default", {"domain": "corp.okta.com"}),
    "auth0": ("https://corp.eu.auth0.com/", {"domain": "corp.eu.auth0.com"}),
    "keycloak": ("https://sso.corp.example/realms/corp", {"base_url": "https://sso.corp.example/", "keycloak_realm": "corp"}),
    "cognito": ("https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_A", {"region": "eu-central-1", "user_pool": "eu-central-1_A"}),
    "gitlab": ("https://gitlab.com", {"namespace": "corp"}),
    "onelogin": ("https://corp.onelogin.com/oidc/2", {"subdomain": "corp"}),
    "github-actions": ("https://token.actions.githubusercontent.com", {"repository_owner": "corp"}),
    "google-iap": ("https://cloud.google.com/iap", {}),
    "aws-alb": ("https://login.example", {"load_balancer": ARN, "issuer": "https://login.example"}),
    "cloudflare-access": ("https://corp.cloudflareaccess.com", {"team": "corp"}),
    "pomerium": ("llm.corp.example", {"host": "llm.corp.example"}),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_is_known_by_what_tells_it_apart(name: str) -> None:
    url, options = PRODUCTS[name]
    issuer = Issuer.preset(name, audience="a", **options)
    assert (url, url, f"Issuer({url!r})") == (issuer.issuer, issuer.realm, repr(issuer))
    assert (issuer.header is not None) == (name in {"google-iap", "aws-alb", "cloudflare-access", "pomerium"})
    assert not [algorithm for algorithm in issuer.algorithms if algorithm.startswith("HS")]


@pytest.mark.parametrize("name", PRODUCTS)
def test_options_that_are_given_win(name: str) -> None:
    mapping = ClaimMap(user="upn")
    given = Issuer.preset(name, audience="a", realm="staff", claims=mapping, algorithms=["ES256"], **PRODUCTS[name][1])
    assert ("staff", mapping, frozenset({"ES256"})) == (given.realm, given.claims, given.algorithms)


MISSING: list[tuple[str, str, dict[str, Any]]] = [
    ("preset", "nobody", {}),
    ("preset", "github", {}),
    ("preset", "", {}),
    ("tenant", "entra", {}),
    ("tenant", "entra", {"tenant": "common"}),
    ("tenant", "entra", {"tenant": "organizations"}),
    ("tenant", "entra", {"tenant": "corp.onmicrosoft.com"}),
    ("version", "entra", {"tenant": TENANT, "version": "3.0"}),
    ("domain", "okta", {}),
    ("domain", "okta", {"domain": "https://corp.okta.com"}),
    ("domain", "okta", {"domain": "corp.okta.com/x"}),
    ("domain", "okta", {"domain": "corp.okta.com@attacker.example"}),
    ("authorization_server", "okta", {"domain": "corp.okta.com", "authorization_server": "../x"}),
    ("domain", "auth0", {"domain": "corp.eu.auth0.com?"}),
    ("base_url", "keycloak", {"keycloak_realm": "corp"}),
    ("base_url", "keycloak", {"keycloak_realm": "corp", "base_url": "http://sso.corp.example"}),
    ("base_url", "keycloak", {"keycloak_realm": "corp", "base_url": 5}),
    ("keycloak_realm", "keycloak", {"base_url": "https://sso.corp.example"}),
    ("keycloak_realm", "keycloak", {"base_url": "https://sso.corp.example", "keycloak_realm": "a/b"}),
    ("region", "cognito", {"user_pool": "x"}),
    ("region", "cognito", {"region": "eu.central", "user_pool": "x"}),
    ("user_pool", "cognito", {"region": "eu-central-1"}),
    ("namespace", "gitlab", {}),
    ("base_url", "gitlab", {"base_url": "http://gitlab.corp.example"}),
    ("subdomain", "onelogin", {"subdomain": "corp.onelogin.com"}),
    ("repository_owner", "github-actions", {}),
    ("repository_owner", "github-actions", {"repository_owner": "corp/llm"}),
    ("required_claims", "google", {"hosted_domain": 5}),
    ("load_balancer", "aws-alb", {"issuer": "https://login.example"}),
    ("load_balancer", "aws-alb", {"issuer": "https://login.example", "load_balancer": "arn:aws:s3:::x"}),
    ("load_balancer", "aws-alb", {"issuer": "https://login.example", "load_balancer": ARN.replace("eu-central-1", "attacker.example/")}),
    ("team", "cloudflare-access", {}),
    ("team", "cloudflare-access", {"team": "corp.cloudflareaccess.com"}),
    ("host", "pomerium", {}),
    ("host", "pomerium", {"host": "https://llm.corp.example"}),
]


@pytest.mark.parametrize(("option", "name", "options"), MISSING, ids=str)
def test_what_would_let_everybody_in_or_lead_elsewhere_is_an_error(option: str, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Issuer.preset(name, audience="a", **options)
    assert option == caught.value.option


def test_github_has_a_hint() -> None:
    with pytest.raises(ConfigurationError, match=r"IntrospectionMiddleware"):
        Issuer.preset("github", audience="a")


def test_an_issuer_of_the_balancer_is_named_by_the_operator() -> None:
    with pytest.raises(TypeError, match=r"issuer"):
        Issuer.preset("aws-alb", audience="a", load_balancer=ARN)


def test_keys_that_are_given_take_the_place_of_those_that_are_published() -> None:
    for name in ("google-iap", "aws-alb", "entra"):
        chosen = preset(name, PRODUCTS[name][1] | {"jwks": {"keys": []}})
        assert ({"jwks"}, None) == ({"jwks_url", "jwks", "pem", "secret"} & chosen.options.keys(), chosen.source)
        assert "jwks_url" in preset(name, dict(PRODUCTS[name][1])).options


def test_the_options_of_the_caller_stay_as_they_are() -> None:
    options = {"tenant": TENANT, "realm": "staff"}
    preset("entra", options)
    assert {"tenant": TENANT, "realm": "staff"} == options


async def judged(name: str, more: Any = None, /, **claims: Any) -> Any:
    """Return the principal of a token of that product, or the reason why it is refused."""
    url, options = PRODUCTS[name]
    issuer = TestIssuer(url, audience="a", algorithm="ES256", clock=ManualClock())
    key = SigningKey("rsa", "RS256", RSA.private)
    trusted = Issuer.preset(name, audience="a", jwks={"keys": [RSA.public()]}, clock=issuer.clock, **(options | (more or {})))
    try:
        return (await trusted.verify(issuer.token(key=key, header={"typ": "JWT"}, **claims).encode())).principal
    except TokenInvalid as invalid:
        return invalid.reason


async def test_entra_names_people_by_their_object_id() -> None:
    principal = await judged("entra", oid="o-1", scp="llm.read llm.write", roles=["Reader"], azp="app", tid=TENANT)
    assert ("o-1", "app", ("Reader",), ("llm.read", "llm.write")) == (principal.user, principal.client, principal.roles, principal.scopes)
    principal = await judged("entra", sub=None, azp="app", idtyp="app")
    assert ("client:app", (("idtyp", "app"),)) == (principal.subject, principal.claims)


async def test_google_tokens_are_id_tokens_of_one_s_own_domain() -> None:
    assert "117" == (await judged("google", sub="117", nonce="n", hd="corp.example")).user
    for hd in (None, "other.example", "corp.example.attacker.example"):
        reason = await judged("google", {"hosted_domain": "corp.example"}, sub="117", hd=hd)
        assert reason in {"token_claim_missing", "token_claim_invalid"}


async def test_okta_names_people_by_their_id_and_services_by_their_client() -> None:
    assert "00u1" == (await judged("okta", sub="ada@corp.example", uid="00u1", cid="0oa1")).user
    assert "client:0oa1" == (await judged("okta", sub="0oa1", cid="0oa1")).subject


async def test_cognito_access_tokens_name_their_client() -> None:
    good: dict[str, Any] = {"aud": None, "client_id": "a", "token_use": "access"}
    assert ("ada", "a") == ((principal := await judged("cognito", **good)).user, principal.client)
    assert "token_type_mismatch" == await judged("cognito", **(good | {"token_use": "id"}))
    assert "token_claim_missing" == await judged("cognito", **(good | {"token_use": None}))
    assert "audience_mismatch" == await judged("cognito", **(good | {"client_id": "b"}))
    assert "audience_mismatch" == await judged("cognito", **(good | {"client_id": None, "aud": "a"}))


@pytest.mark.parametrize(
    ("name", "claim", "client"), [("github-actions", "repository_owner", "repository"), ("gitlab", "namespace_path", "project_path")]
)
async def test_pipelines_of_others_are_kept_out_whatever_else_is_required(name: str, claim: str, client: str) -> None:
    """One issuer signs for everybody's pipelines, for any audience that they ask for."""
    good: dict[str, Any] = {claim: "corp", client: "corp/llm"}
    assert "client:corp/llm" == (await judged(name, **good)).subject
    required: list[Any] = [None, {"ref": "main"}, ["ref"], {"ref": ["main", "next"]}]
    for more in required:
        options = {} if more is None else {"required_claims": more}
        assert "token_claim_invalid" == await judged(name, options, **(good | {claim: "attacker"}), ref="main")
        assert "token_claim_missing" == await judged(name, options, **(good | {claim: None}), ref="main")
        assert "client:corp/llm" == (await judged(name, options, **good, ref="main")).subject
        assert more is None or "token_claim_missing" == await judged(name, options, **good)


async def test_a_gitlab_of_one_s_own_may_let_all_of_its_pipelines_in() -> None:
    issuer = Issuer.preset("gitlab", audience="a", base_url="https://gitlab.corp.example/")
    assert "https://gitlab.corp.example" == issuer.issuer


async def test_keycloak_roles_are_roles() -> None:
    principal = await judged("keycloak", realm_access={"roles": ["b", "a"]}, groups=["/staff"], azp="web", typ="Bearer")
    assert (("a", "b"), ("/staff",), "web") == (principal.roles, principal.groups, principal.client)
    assert "token_type_mismatch" == await judged("keycloak", typ="Refresh")
