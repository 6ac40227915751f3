import copy
import itertools
import pickle
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from starlette.authentication import BaseUser

from llm_authmw.errors import InvalidValueError
from llm_authmw.names import name_problem
from llm_authmw.principal import ANONYMOUS, Assurance, Principal
from llm_authmw.quota import Budget, Limit

# Few letters, and all that the identity's text is made of: where two could meet, hypothesis finds it.
PARTS = st.text(alphabet="a%/25F:ck", min_size=1, max_size=5)
NAMES = PARTS | st.text(min_size=1, max_size=8).filter(lambda text: name_problem(text) is None)
REALMS = st.just("") | NAMES


@st.composite
def principals(draw: st.DrawFn) -> Principal:
    tenant, realm = draw(NAMES), draw(REALMS)
    match draw(st.sampled_from(["user", "client", "key"])):
        case "user":
            user = draw(NAMES.filter(lambda user: not user.startswith(("client:", "key:"))))
            return Principal(tenant=tenant, realm=realm, user=user, method="key")
        case "client":
            return Principal(tenant=tenant, realm=realm, client=draw(NAMES), method="key")
        case _:
            return Principal(tenant=tenant, realm=realm, credential_id=draw(NAMES), method="key")


def whole(**changes: Any) -> Principal:
    """A principal with something in every field."""
    fields: dict[str, Any] = {
        "tenant": "acme",
        "realm": "https://sso.example.com",
        "user": "alice",
        "email": "alice@example.com",
        "client": "cli",
        "team": "blue",
        "org": "research",
        "roles": ("admin", "member"),
        "scopes": ("llm:use",),
        "groups": ("staff",),
        "tags": ("beta",),
        "tier": "silver",
        "models": ("gpt-4o*",),
        "routes": ("/v1/**",),
        "networks": ("10.0.0.0/8",),
        "limits": (Limit.parse("60 requests/minute"),),
        "budgets": (Budget.parse("50 usd/month"),),
        "claims": (("department", "research"), ("levels", (1, 2))),
        "method": "jwt",
        "issuer": "https://sso.example.com",
        "credential_id": "jti-1",
        "authenticated_at": 1.0,
        "acr": "aal2",
        "amr": ("pwd", "otp"),
        "actors": ("agent",),
        "confirmation": (("x5t#S256", "abc"),),
        "expires_at": 2.0,
        "assurance": Assurance.SIGNED,
    }
    return Principal(**(fields | changes))


@given(principals(), principals())
def test_no_two_people_have_the_same_identity(one: Principal, other: Principal) -> None:
    assume((one.tenant, one.realm, one.subject) != (other.tenant, other.realm, other.subject))
    assert one.identity != other.identity


@given(principals())
def test_a_user_is_never_taken_for_a_client_or_a_key(principal: Principal) -> None:
    if principal.user is not None:
        assert principal.user == principal.subject
    elif principal.client is not None:
        assert f"client:{principal.client}" == principal.subject
    else:
        assert f"key:{principal.credential_id}" == principal.subject


def test_the_identity_of_one_name_in_two_realms_or_tenants_is_two_people() -> None:
    people = [
        Principal(tenant=tenant, realm=realm, user=user, method="key")
        for tenant, realm, user in itertools.product(("a", "a/b", "a%2Fb"), ("", "b", "b/c"), ("c", "b/c", "/c"))
    ]
    assert len(people) == len({person.identity for person in people})
    assert "a%2Fb/https:%2F%2Fsso.example.com/x/y" == whole(tenant="a/b", user="x/y").identity


def test_the_subject_is_the_user_else_the_client_else_the_key() -> None:
    assert "alice" == whole().subject
    assert "client:cli" == whole(user=None).subject
    assert "key:jti-1" == whole(user=None, client=None).subject
    assert "anonymous" == ANONYMOUS.subject


@pytest.mark.parametrize("user", ["client:x", "key:x", "client:", "key:"])
def test_a_user_who_is_named_like_a_client_or_a_key_is_refused(user: str) -> None:
    with pytest.raises(InvalidValueError, match="must not begin with"):
        whole(user=user)


@pytest.mark.parametrize("field", ["tenant", "user", "client", "team", "org", "credential_id"])
@pytest.mark.parametrize("value", ["", "a\nb", " a", "a\u202eb", "x" * 513])
def test_a_name_that_could_be_taken_for_another_one_is_refused(field: str, value: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"^a principal's {field} "):
        whole(**{field: value})


@pytest.mark.parametrize("realm", ["a\nb", " a", "x" * 513])
def test_a_realm_is_a_name_or_left_out(realm: str) -> None:
    assert not whole(realm="").realm
    with pytest.raises(InvalidValueError, match=r"^a principal's realm "):
        whole(realm=realm)


TUPLES = [
    "roles",
    "scopes",
    "groups",
    "tags",
    "models",
    "routes",
    "networks",
    "limits",
    "budgets",
    "claims",
    "amr",
    "actors",
    "confirmation",
]


@pytest.mark.parametrize("field", TUPLES)
@pytest.mark.parametrize("value", ["admin", ["admin"], {"admin"}, {"admin": 1}, 7])
def test_several_values_are_a_tuple_and_never_read_letter_by_letter(field: str, value: Any) -> None:
    with pytest.raises(InvalidValueError, match=rf"^a principal's {field} is a tuple, not {type(value).__name__}$"):
        whole(**{field: value})


@pytest.mark.parametrize("field", TUPLES)
def test_only_a_restriction_may_be_none(field: str) -> None:
    if field in {"models", "routes", "networks"}:
        assert getattr(whole(**{field: None}), field) is None
        assert () == getattr(whole(**{field: ()}), field)
        assert whole(**{field: None}) != whole(**{field: ()})
    else:
        with pytest.raises(InvalidValueError, match="is a tuple, not NoneType"):
            whole(**{field: None})


def test_somebody_who_was_authenticated_is_somebody() -> None:
    with pytest.raises(InvalidValueError, match="needs a user, a client or a credential id"):
        Principal(method="key")


def test_equal_facts_make_one_principal_and_any_other_fact_another() -> None:
    assert whole() == whole()
    assert hash(whole()) == hash(whole())
    assert {whole()} == {whole(), whole()}
    changes: dict[str, Any] = dict.fromkeys(TUPLES, ()) | dict.fromkeys(("user", "email", "client", "team", "org", "tier"))
    changes |= dict.fromkeys(("issuer", "credential_id", "authenticated_at", "acr", "expires_at"))
    changes |= {"tenant": "other", "realm": "", "method": "key", "assurance": Assurance.BOUND}
    assert set(Principal.__struct_fields__) == set(changes)
    for field, value in changes.items():
        assert whole() != whole(**{field: value})


@pytest.mark.parametrize("field", Principal.__struct_fields__)
def test_nothing_of_a_principal_can_be_changed(field: str) -> None:
    principal = whole()
    with pytest.raises(AttributeError):
        setattr(principal, field, None)
    with pytest.raises(AttributeError):
        delattr(principal, field)
    with pytest.raises(AttributeError):
        setattr(principal, "extra", 1)  # noqa: B010 - a type checker refuses the assignment


def test_a_copy_is_the_same_principal() -> None:
    for twin in (copy.copy(whole()), copy.deepcopy(whole()), pickle.loads(pickle.dumps(whole()))):
        assert whole() == twin
        assert hash(whole()) == hash(twin)


def test_it_is_the_user_that_starlette_knows() -> None:
    assert isinstance(ANONYMOUS, BaseUser)
    assert (False, "anonymous", "default//anonymous") == (ANONYMOUS.is_authenticated, ANONYMOUS.display_name, ANONYMOUS.identity)
    assert (True, "alice@example.com") == (whole().is_authenticated, whole().display_name)
    assert "alice" == whole(email=None).display_name


def test_nobody_has_no_role_and_no_scope() -> None:
    assert ((), (), (), None) == (ANONYMOUS.roles, ANONYMOUS.scopes, ANONYMOUS.groups, ANONYMOUS.tier)


def test_assurance_is_one_order() -> None:
    words = ["ASSERTED", "PEER_TRUSTED", "SHARED_SECRET", "INTROSPECTED", "SIGNED", "BOUND"]
    assert words == [level.name for level in sorted(Assurance)]
    assert Assurance.SHARED_SECRET == min(Assurance.BOUND, Assurance.SHARED_SECRET)
