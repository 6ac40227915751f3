import hashlib
import hmac
from pathlib import Path
from typing import Any

import pytest

from llm_authmw import secrets
from llm_authmw.errors import ConfigurationError
from llm_authmw.keys.format import mint_key
from llm_authmw.keys.hashing import MIN_PEPPER_LENGTH, Digest, Peppers, sha256
from llm_authmw.secrets import Secret

OLD, NEW = "old-" + "o" * 28, "new-" + "n" * 28
KEY = mint_key().text.encode()


def under(pepper: str) -> bytes:
    return hmac.new(pepper.encode(), KEY, hashlib.sha256).digest()


def test_without_a_pepper_a_key_is_kept_as_sha_256() -> None:
    peppers = Peppers()
    assert Digest(hashlib.sha256(KEY).digest(), "sha256", 0) == peppers.digest(KEY)
    assert hashlib.sha256(KEY).digest() == sha256(KEY) == peppers.digest_as(KEY, "sha256", 0)
    assert (0, True, False) == (peppers.newest, peppers.has(0), peppers.has(1))


@pytest.mark.parametrize("option", [NEW, Secret(NEW), {1: NEW}, {1: Secret(NEW)}, f"1:{NEW}"])
def test_one_pepper_is_version_1(option: Any) -> None:
    assert Digest(under(NEW), "hmac-sha256", 1) == Peppers(option).digest(KEY)


@pytest.mark.parametrize(
    "option",
    [
        {2: NEW, 1: OLD},
        {1: OLD, 2: NEW},
        {2: Secret(NEW), 1: OLD},
        f"2:{NEW},1:{OLD}",
        f"1:{OLD},2:{NEW}",
        f"2:{NEW}, 1:{OLD}",
        f"2:{NEW} 1:{OLD}",
        f"2:{NEW}\n1:{OLD}\n",
        f"02:{NEW},01:{OLD}",
        Secret(f"2:{NEW},1:{OLD}"),
    ],
)
def test_of_several_peppers_the_newest_hashes_and_the_others_verify(option: Any) -> None:
    peppers = Peppers(option)
    assert Digest(under(NEW), "hmac-sha256", 2) == peppers.digest(KEY)
    assert under(OLD) == peppers.digest_as(KEY, "hmac-sha256", 1)
    assert under(NEW) == peppers.digest_as(KEY, "hmac-sha256", 2)
    assert [True, True, True, False] == [peppers.has(version) for version in range(4)]


def test_a_pepper_that_is_not_at_hand_makes_no_digest() -> None:
    assert Peppers({2: NEW}).digest_as(KEY, "hmac-sha256", 1) is None
    assert Peppers().digest_as(KEY, "hmac-sha256", 1) is None
    assert sha256(KEY) == Peppers({2: NEW}).digest_as(KEY, "sha256", 0)


def test_peppers_come_from_where_secrets_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(secrets, "_resolvers", {"vault": {"authmw": OLD}.__getitem__})
    monkeypatch.setenv("AUTHMW_NEW", NEW)
    monkeypatch.setenv("AUTHMW_BOTH", f"2:{NEW},1:{OLD}")
    (tmp_path / "a-file-with-a-long-name-that-is-no-pepper").write_text(OLD + "\n")
    file = f"file:{tmp_path / 'a-file-with-a-long-name-that-is-no-pepper'}"
    assert Digest(under(NEW), "hmac-sha256", 1) == Peppers("env:AUTHMW_NEW").digest(KEY)
    assert Digest(under(OLD), "hmac-sha256", 1) == Peppers(file).digest(KEY)
    assert Digest(under(OLD), "hmac-sha256", 1) == Peppers("vault:authmw").digest(KEY)
    for option in ("env:AUTHMW_BOTH", {2: "env:AUTHMW_NEW", 1: file}, f"2:env:AUTHMW_NEW,1:{file}", "2:env:AUTHMW_NEW,1:vault:authmw"):
        peppers = Peppers(option)
        assert (2, under(NEW)) == (peppers.newest, peppers.digest(KEY).value)
        assert under(OLD) == peppers.digest_as(KEY, "hmac-sha256", 1)


@pytest.mark.parametrize("option", ["x" * 31, {1: "x" * 31}, f"2:{NEW},1:{'x' * 31}", Secret("short"), "2:short,1:short"])
def test_a_short_pepper_is_refused_and_not_quoted(option: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^pepper: version \d is shorter than {MIN_PEPPER_LENGTH} characters") as caught:
        Peppers(option)
    assert "xxx" not in str(caught.value)
    assert "short," not in str(caught.value)


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, None])
def test_a_version_is_a_number_above_zero(version: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^pepper: has versions from 1 on$"):
        Peppers({version: NEW})


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"2:{NEW},1:{OLD},", id="a comma at the end"),
        pytest.param(f"2:{NEW},{OLD}", id="a version left out"),
        pytest.param(f"2:{NEW},1:", id="a pepper left out"),
        pytest.param(f"2:,1:{OLD}", id="the first pepper left out"),
        pytest.param(f" 2:{NEW},1:{OLD}", id="a blank in front"),
        pytest.param(f"1234567:{NEW}", id="a long version"),
        pytest.param("2:" + "two words " * 5, id="blanks in a pepper"),
    ],
)
def test_versions_that_are_miswritten_are_never_taken_for_one_long_pepper(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^pepper: begins with a version and goes on otherwise"):
        Peppers(text)


def test_a_version_is_named_once() -> None:
    with pytest.raises(ConfigurationError, match=r"^pepper: names version 1 twice$"):
        Peppers(f"1:{NEW},01:{OLD}")
    with pytest.raises(ConfigurationError, match=r"^pepper: names version 1 twice$"):
        Peppers(f"1:{NEW},1:{NEW}")


@pytest.mark.parametrize("option", [{}, "", Secret("")])
def test_an_option_that_names_no_pepper_is_refused(option: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^pepper: "):
        Peppers(option)


def test_a_pepper_may_hold_any_text() -> None:
    pepper = "größe: a passphrase, with 2:1 signs in it"
    assert under(pepper) == Peppers(pepper).digest(KEY).value


def test_neither_a_pepper_nor_a_digest_prints() -> None:
    peppers = Peppers({2: NEW, 1: OLD})
    digest = peppers.digest(KEY)
    assert "Peppers(versions=[1, 2])" == repr(peppers)
    assert "Digest(scheme='hmac-sha256', pepper_version=2)" == repr(digest) == str(digest) == f"{digest}"
    assert not hasattr(peppers, "__dict__")
