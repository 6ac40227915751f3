"""Which headers become which fields, and what each proxy writes into them."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from llm_authmw import Budget, ConfigurationError, Denial, Limit, Principal
from llm_authmw.authn.header_map import FIELDS, HeaderMap
from llm_authmw.authn.header_reader import MAX_STRUCTURE, MAX_VALUE, HeaderReader
from llm_authmw.principal import Assurance

NAMED: dict[str, Any] = {field: f"x-{field}" for field in FIELDS}
EVERYTHING = HeaderMap(**NAMED)
ALWAYS = {"x-tenant": "t", "x-tier": "gold", "x-models": "gpt-4o*", "x-limits": "", "x-budgets": ""}


def read(headers: HeaderMap, values: Mapping[str, str | bytes] | None = None, **more: str | bytes) -> Principal | None:
    lines = {**(values or {}), **{f"x-{name}": value for name, value in more.items()}}
    encoded = tuple((name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in lines.items())
    return HeaderReader(headers, realm="corp", tenant="default").read(encoded)


def refusal(headers: HeaderMap, values: Mapping[str, str | bytes] | None = None, **more: str | bytes) -> str:
    with pytest.raises(Denial) as raised:
        read(headers, values, **more)
    assert 400 == raised.value.status
    return raised.value.reason


NAMES = ["user", "email", "client", "team", "org", "tenant", "tier"]
LISTS = ["groups", "roles", "scopes", "tags", "models"]


@pytest.mark.parametrize("field", NAMES)
def test_a_list_where_one_name_is_due_is_refused(field: str) -> None:
    values = {**ALWAYS, "x-user": "ada", f"x-{field}": "a@b, c@d"}
    assert "identity_header_repeated" == refusal(EVERYTHING, values)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [b"\xff", "é".encode("latin-1"), b"a\x00b", b"a\nb", b"a\x1b[0m", "a\u202eb".encode(), b"\xed\xa0\x80"])
def test_what_is_not_printable_text_in_utf_8_is_refused(field: str, value: bytes) -> None:
    values: dict[str, str | bytes] = {**ALWAYS, "x-user": "ada", f"x-{field}": value}
    assert "identity_header_malformed" == refusal(EVERYTHING, values)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, "a" * 513) for field in (*NAMES, *LISTS)),
        *((field, "a" * (MAX_VALUE + 1)) for field in FIELDS),
        ("user", "client:ada"),
        ("user", "key:ada"),
        ("email", "ada"),
        ("email", "@example.com"),
        ("email", "ada@"),
        ("email", "ada@example.com@evil.example"),
        ("email", "ada@exämple.com"),
        ("email", "ada@example.com evil"),
        ("groups", ",".join(f"g{number}" for number in range(257))),
        ("groups", ",".join(f"{number:0200}" for number in range(100))),
        ("models", "gpt-*-mini"),
        ("models", "gpt-4o, *!"),
        ("limits", "sixty requests/minute"),
        ("limits", "60 requests/minute, 10 requests/second"),
        ("limits", "0 requests/minute"),
        ("limits", "99999999999999999999 requests/minute"),
        ("limits", "-1 requests/minute"),
        ("limits", "; ".join(["60 requests/minute"] * 33)),
        ("budgets", "NaN usd/month"),
        ("budgets", "1e9 usd/month"),
        ("budgets", "50 eur/month"),
    ],
)
def test_a_value_out_of_bounds_is_refused(field: str, value: str) -> None:
    assert "identity_header_malformed" == refusal(EVERYTHING, {**ALWAYS, "x-user": "ada", f"x-{field}": value})


def test_a_header_that_is_there_twice_is_refused_even_with_equal_values() -> None:
    reader = HeaderReader(HeaderMap(user="x-user", groups="x-groups"), realm="corp", tenant="default")
    for twice in ([b"ada", b"ada"], [b"ada", b""], [b"", b"admin"]):
        with pytest.raises(Denial) as raised:
            reader.read(tuple((b"x-user", value) for value in twice))
        assert "identity_header_repeated" == raised.value.reason
    with pytest.raises(Denial):
        reader.read(((b"x-user", b"ada"), (b"x-groups", b"a"), (b"x-groups", b"b")))


@pytest.mark.parametrize("field", ["tenant", "tier", "models", "limits", "budgets"])
def test_a_header_that_narrows_has_to_be_there(field: str) -> None:
    """CVE-2022-31813: a client names a header in `Connection`, and a proxy drops it."""
    values: dict[str, str | bytes] = {**ALWAYS, "x-user": "ada"}
    del values[f"x-{field}"]
    assert "identity_header_missing" == refusal(EVERYTHING, values)
    if field in ("tenant", "tier"):
        assert "identity_header_missing" == refusal(EVERYTHING, {**values, f"x-{field}": " "})
    else:
        assert read(EVERYTHING, {**values, f"x-{field}": " "}) is not None


def test_an_empty_header_of_models_allows_none() -> None:
    headers = HeaderMap(user="x-user", models="x-models")
    found = read(headers, user="ada", models="")
    assert found is not None
    assert () == found.models
    without = read(HeaderMap(user="x-user"), user="ada")
    assert without is not None
    assert without.models is None


@pytest.mark.parametrize(
    "values", [{}, {"x-user": ""}, {"x-user": "  "}, {"x-email": "ada@example.com", "x-groups": "admins", "x-team": "blue"}]
)
def test_headers_that_name_nobody_are_no_identity(values: dict[str, str | bytes]) -> None:
    assert read(EVERYTHING, values) is None


def test_every_field_is_read_as_what_it_is() -> None:
    found = read(
        EVERYTHING,
        user=" ada\t",
        email="ada.l@Example.COM",
        client="batch",
        team="blue",
        org="research",
        tenant="acme",
        groups="ml platform, admins,,admins ",
        roles="writer,reader",
        scopes="llm:read  llm:write llm:read",
        tags="b,a",
        tier="gold",
        models="gpt-4o*, !gpt-4o-mini",
        limits="60 requests/minute, burst 10; 4 concurrent",
        budgets="50 usd/month, soft 80%",
    )
    assert (
        Principal(
            tenant="acme",
            realm="corp",
            user="ada",
            email="ada.l@example.com",
            client="batch",
            team="blue",
            org="research",
            roles=("reader", "writer"),
            scopes=("llm:read", "llm:write"),
            groups=("admins", "ml platform"),
            tags=("a", "b"),
            tier="gold",
            models=("gpt-4o*", "!gpt-4o-mini"),
            limits=(Limit.parse("60 requests/minute, burst 10"), Limit.parse("4 concurrent")),
            budgets=(Budget.parse("50 usd/month, soft 80%"),),
            method="header",
            assurance=Assurance.PEER_TRUSTED,
        )
        == found
    )


def test_names_may_hold_letters_of_any_language() -> None:
    found = read(HeaderMap(user="x-user", groups="x-groups"), user="Zoë Müller", groups="研究, Доступ")
    assert found is not None
    assert ("Zoë Müller", ("Доступ", "研究")) == (found.user, found.groups)


@pytest.mark.parametrize("separator", [",", ";", "|", " "])
def test_lists_have_the_separator_that_the_proxy_writes(separator: Any) -> None:
    found = read(HeaderMap(user="x-user", groups="x-groups", separator=separator), user="ada", groups=separator.join(["b", "a"]))
    assert found is not None
    assert ("a", "b") == found.groups


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("user", {}),
    ("user", {"email": "x-email"}),
    ("user", {"user": ""}),
    ("user", {"user": "X-User"}),
    ("user", {"user": "x user"}),
    ("user", {"user": 7}),
    ("user", {"user": ["x-user"]}),
    ("user", {"user": "authorization"}),
    ("user", {"user": "x-api-key"}),
    ("user", {"user": "x-forwarded-for"}),
    ("user", {"user": "x_forwarded_for"}),
    ("user", {"user": "host"}),
    ("team", {"user": "x-user", "team": "cookie"}),
    ("user", {"user": "x-user", "email": "x-user"}),
    ("headers", {"user": "x-user", "email": "x_user"}),
    ("separator", {"user": "x-user", "separator": ""}),
    ("separator", {"user": "x-user", "separator": "a"}),
    ("encoding", {"user": "x-user", "encoding": "json"}),
    ("encoding", {"client": "x-client", "encoding": "google-iap"}),
    ("encoding", {"user": "x-user", "client": "x-client", "encoding": "xfcc"}),
    ("encoding", {"user": "x-xfcc", "client": "x-xfcc", "encoding": "xfcc"}),
    ("encoding", {"user": "x-principal", "groups": "x-groups", "encoding": "azure-easy-auth"}),
    ("email", {"user": "x-principal", "email": "x-principal", "encoding": "azure-easy-auth"}),
]


@pytest.mark.parametrize(("option", "options"), WRONG)
def test_a_map_that_could_not_be_trusted_is_refused(option: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        HeaderMap(**options)
    assert option == raised.value.option


def test_a_preset_is_a_map_with_changes() -> None:
    expected = HeaderMap(user="remote-user", email="remote-email", groups="remote-groups", team="x-team")
    assert expected == HeaderMap.preset("authelia", team="x-team")
    assert HeaderMap(user="remote-email", groups="remote-groups") == HeaderMap.preset("authelia", user="remote-email", email=None)
    unknown: Any = "unknown"
    with pytest.raises(ConfigurationError, match="is not a known proxy"):
        HeaderMap.preset(unknown)
    with pytest.raises(ConfigurationError, match="no field"):
        HeaderMap.preset("authelia", usre="x-user")


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        (
            "oauth2-proxy",
            {"x-forwarded-user": "ada", "x-forwarded-email": "ada@example.com", "x-forwarded-groups": "admins,ml"},
            ("ada", "ada@example.com", ("admins", "ml")),
        ),
        (
            "authelia",
            {"remote-user": "ada", "remote-email": "ada@example.com", "remote-groups": "admins,ml"},
            ("ada", "ada@example.com", ("admins", "ml")),
        ),
        (
            "pomerium",
            {"x-pomerium-claim-user": "u-1", "x-pomerium-claim-email": "ada@example.com", "x-pomerium-claim-groups": "ml"},
            ("u-1", "ada@example.com", ("ml",)),
        ),
        (
            "google-iap",
            {
                "x-goog-authenticated-user-id": "accounts.google.com:118133858486581853996",
                "x-goog-authenticated-user-email": "accounts.google.com:ada@example.com",
            },
            ("118133858486581853996", "ada@example.com", ()),
        ),
        ("tailscale", {"tailscale-user-login": "ada@github"}, ("ada@github", None, ())),
        ("tailscale", {"tailscale-user-login": "=?utf-8?q?zo=C3=AB@example.com?="}, ("zoë@example.com", None, ())),
        ("tailscale", {"tailscale-user-login": "=?utf-8?q?zo=C3?= =?UTF-8?Q?=AB_m=3D?="}, ("zoë m=", None, ())),
    ],
)
def test_what_well_known_proxies_write_is_read(name: Any, lines: dict[str, str | bytes], expected: tuple[Any, ...]) -> None:
    found = read(HeaderMap.preset(name), lines)
    assert found is not None
    assert expected == (found.user, found.email, found.groups)


@pytest.mark.parametrize(
    "value",
    [
        "ada@example.com",
        "securetoken.google.com/p/t:ada@example.com",
        "Accounts.google.com:ada",
        "accounts.google.com",
        "accounts.google.com:",
    ],
)
def test_a_google_user_of_another_namespace_is_refused(value: str) -> None:
    assert "identity_header_malformed" == refusal(HeaderMap.preset("google-iap"), {"x-goog-authenticated-user-id": value})


@pytest.mark.parametrize(
    "value",
    [
        "=?utf-8?q?a",
        "=?utf-8?b?YWRh?=",
        "=?iso-8859-1?q?a?=",
        "=?utf-8?q?=FF?=",
        "=?utf-8?q?=00?=",
        "=?utf-8?q?=0A?=",
        "=?utf-8?q?=4?=",
        "=?utf-8?q?a?=b",
        "=?utf-8?q?a?=  =?utf-8?q?b?=",
        "=?utf-8?q??=",
        "=?utf-8?q?client=3Aada?=",
    ],
)
def test_an_encoded_word_that_can_be_read_in_two_ways_is_refused(value: str) -> None:
    assert "identity_header_malformed" == refusal(HeaderMap.preset("tailscale"), {"tailscale-user-login": value})


OBJECT_ID = "http://schemas.microsoft.com/identity/claims/objectidentifier"
ROLE = "http://schemas.microsoft.com/ws/2008/06/identity/claims/role"


def client_principal(*claims: tuple[Any, Any], **members: Any) -> str:
    listed = [{"typ": typ, "val": val} for typ, val in claims]
    whole = {"auth_typ": "aad", "claims": listed, "name_typ": "name", "role_typ": ROLE, **members}
    return base64.b64encode(json.dumps(whole).encode()).decode()


def azure(value: str) -> dict[str, str | bytes]:
    return {"x-ms-client-principal": value}


def test_a_client_principal_of_azure_is_read() -> None:
    value = client_principal(
        (OBJECT_ID, "5b5450db"),
        ("preferred_username", "ada@example.com"),
        ("groups", "g2"),
        ("groups", "g1"),
        (ROLE, "admin"),
        ("appid", "cli"),
    )
    found = read(HeaderMap.preset("azure-easy-auth"), azure(value))
    assert found is not None
    assert ("5b5450db", None, None, ("g1", "g2"), ("admin",)) == (found.user, found.client, found.email, found.groups, found.roles)
    header = "x-ms-client-principal"
    as_client = read(HeaderMap(client=header, encoding="azure-easy-auth"), azure(value))
    assert as_client is not None
    assert (None, "cli", ()) == (as_client.user, as_client.client, as_client.groups)


def test_a_client_principal_without_an_object_id_is_nobody() -> None:
    assert read(HeaderMap.preset("azure-easy-auth"), azure(client_principal(("groups", "g1")))) is None
    assert read(HeaderMap.preset("azure-easy-auth"), azure("")) is None


GOOD = (OBJECT_ID, "5b5450db")


@pytest.mark.parametrize(
    "value",
    [
        client_principal(GOOD, auth_typ="google"),
        client_principal(GOOD, auth_typ=None),
        client_principal(GOOD, role_typ=["groups"], claims="x"),
        client_principal(GOOD, claims=[["typ", "val"]]),
        client_principal(GOOD, claims=[{"typ": OBJECT_ID}]),
        client_principal(GOOD, (OBJECT_ID, "somebody-else")),
        client_principal(GOOD, ("oid", "somebody-else")),
        client_principal((OBJECT_ID, 7)),
        client_principal(GOOD, ("groups", ["g1"])),
        client_principal(GOOD, *(("x", "y") for _ in range(1025))),
        client_principal((OBJECT_ID, "key:x")),
        client_principal(GOOD, ("x", "y" * MAX_STRUCTURE)),
        base64.b64encode(b"[]").decode(),
        base64.b64encode(b"null").decode(),
        base64.b64encode(b'{"auth_typ":"aad","auth_typ":"aad","role_typ":"r","claims":[]}').decode(),
        base64.b64encode("\ufeff{}".encode()).decode(),
        base64.b64encode(b"[" * 100_000).decode(),
        client_principal(GOOD).rstrip("=") + "-",
        client_principal(GOOD) + "\t" + client_principal(GOOD),
        json.dumps({"auth_typ": "aad"}),
        "a" * (MAX_STRUCTURE + 4),
    ],
)
def test_a_client_principal_that_is_not_what_entra_id_writes_is_refused(value: str) -> None:
    assert "identity_header_malformed" == refusal(HeaderMap.preset("azure-easy-auth"), azure(value))


HASH = "ab" * 32


@pytest.mark.parametrize("name", ["istio", "envoy"])
def test_the_workload_of_a_mesh_is_the_uri_of_its_certificate(name: Any) -> None:
    uri = "spiffe://cluster.local/ns/prod/sa/batch"
    header = f'By=spiffe://cluster.local/ns/prod/sa/llm;Hash={HASH};Subject="CN=a\\"b,URI=spiffe://evil/x";URI={uri}'
    found = read(HeaderMap.preset(name), {"x-forwarded-client-cert": header})
    assert found is not None
    assert (f"client:{uri}", None) == (found.subject, found.user)
    as_user = read(HeaderMap.preset(name, user="x-forwarded-client-cert", client=None), {"x-forwarded-client-cert": header})
    assert as_user is not None
    assert (uri, None) == (as_user.user, as_user.client)


@pytest.mark.parametrize("value", [f"Hash={HASH}", f"Hash={HASH};URI=", f"Hash={HASH};DNS=batch.example.com"])
def test_a_certificate_without_a_uri_names_nobody(value: str) -> None:
    assert read(HeaderMap.preset("istio"), {"x-forwarded-client-cert": value}) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (f"Hash={HASH};URI=spiffe://a/b,Hash={HASH};URI=spiffe://a/c", "identity_header_repeated"),
        (f"Hash={HASH};URI=spiffe://a/b;URI=spiffe://a/c", "identity_header_malformed"),
        ("URI=spiffe://a/b", "identity_header_malformed"),
        (f'Hash={HASH};Subject="CN=a;URI=spiffe://a/b', "identity_header_malformed"),
        (f"Hash={HASH};URI=spiffe://a/{'b' * 600}", "identity_header_malformed"),
        ("garbage", "identity_header_malformed"),
    ],
)
def test_a_certificate_header_of_several_hops_or_meanings_is_refused(value: str, reason: str) -> None:
    assert reason == refusal(HeaderMap.preset("istio"), {"x-forwarded-client-cert": value})


def test_only_the_headers_of_clouds_need_more_than_an_address() -> None:
    weak = [
        name
        for name in ("oauth2-proxy", "authelia", "pomerium", "istio", "envoy", "tailscale")
        if HeaderMap.preset(name).needs_strong_proof
    ]
    assert [] == weak
    assert HeaderMap.preset("google-iap").needs_strong_proof
    assert HeaderMap.preset("azure-easy-auth").needs_strong_proof
    assert HeaderMap(user="x-ms-client-principal-id").needs_strong_proof
    assert HeaderMap(user="x-user", email="x-goog-authenticated-user-email").needs_strong_proof
