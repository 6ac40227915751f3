import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.challenges import Challenge, parse_challenge

WORDS = st.text("abcdefghijklmnopqrstuvwxyzABC0123456789!#$%&'*+.^_`|~-", min_size=1, max_size=8)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " Bearer",
        "Bearer ",
        "Bearer,Basic",
        "Bearer, Basic",
        "Bearer realm",
        "Bearer realm=",
        "Bearer realm=a b",
        'Bearer realm="a',
        'Bearer realm="a" scope="b"',
        'Bearer realm="a",',
        'Bearer , realm="a"',
        'Bearer realm="a", realm="b"',
        'Bearer realm="a", Realm="b"',
        'Bearer realm="a\r\nset-cookie: x"',
        'Bearer realm="a"\n',
        'Bearer realm="größe"',
        "Bearer\trealm=a",
        "Negotiate abc==",
        "Bearer\n",
    ],
)
def test_what_is_no_challenge_or_has_a_parameter_twice_is_not_read(text: str) -> None:
    assert parse_challenge(text) is None


@pytest.mark.parametrize(
    ("text", "scheme", "parameters"),
    [
        ("Bearer", "Bearer", {}),
        ("DPoP algs=ES256", "DPoP", {"algs": "ES256"}),
        ('bearer  Realm="a b" ,scope=c', "bearer", {"realm": "a b", "scope": "c"}),
        (r'Basic realm="a \"b\" \\ c", charset="UTF-8"', "Basic", {"realm": r'a "b" \ c', "charset": "UTF-8"}),
        ('Bearer realm=""', "Bearer", {"realm": ""}),
    ],
)
def test_a_challenge_is_read(text: str, scheme: str, parameters: dict[str, str]) -> None:
    assert Challenge(scheme, parameters) == parse_challenge(text)


@pytest.mark.parametrize(("scheme", "bearer"), [("Bearer", True), ("bearer", True), ("BEARER", True), ("DPoP", False), ("Bearerx", False)])
def test_the_case_of_a_scheme_means_nothing(scheme: str, bearer: bool) -> None:
    assert bearer == Challenge(scheme, {}).bearer


@given(WORDS, st.dictionaries(WORDS.map(str.lower), VALUES, max_size=4))
def test_what_is_written_is_read_back_the_same(scheme: str, parameters: dict[str, str]) -> None:
    challenge = Challenge(scheme, parameters)
    assert challenge == parse_challenge(str(challenge))
    assert str(challenge).isprintable()


@given(st.text(max_size=30) | VALUES.map(lambda value: f'Bearer realm="{value}"'))
def test_any_text_is_read_or_not(text: str) -> None:
    challenge = parse_challenge(text)
    assert challenge is None or challenge == parse_challenge(str(challenge))
