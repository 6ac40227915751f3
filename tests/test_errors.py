import copy
import pickle

import pytest

from llm_authmw.errors import AuthmwError, ConfigurationError, Denial, InvalidValueError, MissingExtraError, NotFoundError
from llm_authmw.reasons import REASONS

KEY_STATES = (
    *("key_malformed", "key_unknown", "key_mismatch", "key_not_yet_valid", "key_expired", "key_rotated"),
    *("key_blocked", "key_revoked", "account_blocked"),
)


def test_a_configuration_error_names_its_option() -> None:
    error = ConfigurationError("bound", "is a number of seconds above zero")
    assert "bound: is a number of seconds above zero" == str(error)
    assert ("bound", "is a number of seconds above zero") == (error.option, error.problem)
    assert isinstance(error, ValueError)


def test_a_missing_extra_says_how_to_install_it() -> None:
    error = MissingExtraError("url", "redis")
    assert "url: needs an optional dependency: pip install 'llm-authmw[redis]'" == str(error)
    assert "redis" == error.extra


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("bound", "is wrong"),
        MissingExtraError("url", "redis"),
        InvalidValueError("'x' is not a limit"),
        NotFoundError("there is no such key"),
        Denial("key_revoked", layer="KeyAuthMiddleware", need="x", retry_after=2.0, challenges=("Bearer",)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_a_process_boundary(error: AuthmwError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(error) is type(twin)
        assert str(error) == str(twin)
        assert vars(error) == vars(twin)


@pytest.mark.parametrize("reason", KEY_STATES)
def test_the_states_of_a_key_look_the_same_to_a_client(reason: str) -> None:
    exact, told = Denial(reason), Denial("invalid_api_key")
    assert reason == exact.reason
    assert (told.public_reason, told.status, told.message) == (exact.public_reason, exact.status, exact.message)
    assert (401, None) == (exact.status, exact.retry_after)


@pytest.mark.parametrize("reason", KEY_STATES)
def test_the_exact_state_of_a_key_is_told_only_where_that_is_asked_for(reason: str) -> None:
    denial = Denial(reason, public_reason=reason)
    assert (reason, REASONS[reason].message) == (denial.public_reason, denial.message)


@pytest.mark.parametrize("reason", ["store_unavailable", "pepper_unavailable", "check_failed"])
def test_a_decision_that_could_not_be_reached_is_a_denial_that_says_when_to_try_again(reason: str) -> None:
    denial = Denial(reason)
    assert (503, "store_unavailable", 1.0) == (denial.status, denial.public_reason, denial.retry_after)


def test_a_wait_that_is_known_exactly_replaces_the_one_of_the_table() -> None:
    assert 7.5 == Denial("store_unavailable", retry_after=7.5).retry_after
    assert 0.0 == Denial("store_unavailable", retry_after=0.0).retry_after


@pytest.mark.parametrize(("reason", "public_reason"), [("no_such_reason", None), ("key_unknown", "no_such_reason")])
def test_a_reason_that_is_not_in_the_table_cannot_be_given(reason: str, public_reason: str | None) -> None:
    with pytest.raises(KeyError):
        Denial(reason, public_reason=public_reason)


def test_a_denial_keeps_who_decided_and_what_would_have_been_needed() -> None:
    denial = Denial("insufficient_scope", layer="rbac", rule="admins", need="llm:admin", challenges=["Bearer"])
    assert ("rbac", "admins", "llm:admin", ("Bearer",)) == (denial.layer, denial.rule, denial.need, denial.challenges)
    bare = Denial("key_unknown")
    assert ("", None, None, (), None) == (bare.layer, bare.rule, bare.need, bare.challenges, bare.retry_after)


def test_a_denial_prints_ids_and_codes_only() -> None:
    assert "Denial(status=401, reason='key_blocked', layer='keys')" == repr(Denial("key_blocked", layer="keys", need="secret-ish"))
    assert "key_blocked" == str(Denial("key_blocked"))


@pytest.mark.parametrize("code", REASONS)
def test_every_reason_is_a_stable_word_with_a_fixed_text(code: str) -> None:
    reason = REASONS[code]
    assert code == code.lower()
    assert code.replace("_", "").isalpha()
    assert reason.status in {400, 401, 403, 413, 415, 429, 503}
    assert reason.message.endswith(".")
    assert "{" not in reason.message
    if reason.public is not None:
        # Otherwise the status would tell what the code hides.
        assert reason.status == REASONS[reason.public].status
        assert REASONS[reason.public].public is None
