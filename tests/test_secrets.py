import copy
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm_authmw import secrets
from llm_authmw.errors import ConfigurationError
from llm_authmw.secrets import Secret, register_resolver, resolve_secret

TEXT = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def _fresh_resolvers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_resolvers", {})


@pytest.mark.parametrize("show", [repr, str, format, "{}".format, "{!r}".format, "%s".__mod__, ascii])
def test_a_secret_prints_as_stars(show: Callable[[Any], str]) -> None:
    assert "Secret('**********')" == show(Secret(TEXT))
    assert TEXT not in show([Secret(TEXT)])


@pytest.mark.parametrize("write", [pickle.dumps, copy.deepcopy])
@pytest.mark.parametrize("value", [Secret(TEXT), {"pepper": [Secret(TEXT)]}], ids=["alone", "inside"])
def test_a_secret_is_not_serialised(write: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(TypeError, match="not serialised") as caught:
        write(value)
    assert TEXT not in "".join(traceback.format_exception(caught.value))


def test_a_secret_is_read_by_reveal_and_compares_by_what_it_holds() -> None:
    assert TEXT == Secret(TEXT).reveal()
    assert Secret(TEXT) == Secret(TEXT)
    assert Secret(TEXT) != Secret(TEXT + "x")
    assert Secret("größe") == Secret("größe")
    assert Secret(TEXT) != TEXT
    assert {Secret(TEXT)} == {Secret(TEXT), Secret(TEXT)}
    assert not hasattr(Secret(TEXT), "__dict__")


def test_a_text_is_the_secret_itself_and_a_secret_stays_one() -> None:
    assert TEXT == resolve_secret("pepper", TEXT).reveal()
    secret = Secret("env:NOT_READ")
    assert secret is resolve_secret("pepper", secret)


@pytest.mark.parametrize("text", ["unknown:thing", "http://example.com", ":x", "1:a", "ENV:X"])
def test_a_prefix_that_nobody_registered_is_part_of_the_secret(text: str) -> None:
    assert text == resolve_secret("pepper", text).reveal()


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHMW_TEST", TEXT)
    assert TEXT == resolve_secret("pepper", "env:AUTHMW_TEST").reveal()


@pytest.mark.parametrize("value", [None, ""])
def test_a_variable_that_is_missing_or_empty_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("AUTHMW_TEST", raising=False)
    if value is not None:
        monkeypatch.setenv("AUTHMW_TEST", value)
    with pytest.raises(ConfigurationError, match=r"^master_key: the environment variable AUTHMW_TEST is not set, or is empty$"):
        resolve_secret("master_key", "env:AUTHMW_TEST")


def test_bytes_in_the_environment_that_are_not_text_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHMW_TEST", TEXT + "\udcff")
    with pytest.raises(ConfigurationError, match=r"^pepper: is not UTF-8$") as caught:
        resolve_secret("pepper", "env:AUTHMW_TEST")
    assert TEXT not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("content", "secret"),
    [(f"{TEXT}", TEXT), (f"{TEXT}\n", TEXT), (f"{TEXT}\r\n", TEXT), (f"{TEXT}\n\n", f"{TEXT}\n"), (f" {TEXT} \n", f" {TEXT} ")],
)
def test_a_secret_comes_from_a_file_without_the_line_break_that_editors_add(tmp_path: Path, content: str, secret: str) -> None:
    file = tmp_path / "pepper"
    file.write_bytes(content.encode())
    assert secret == resolve_secret("pepper", f"file:{file}").reveal()


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n"])
def test_an_empty_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "pepper"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        resolve_secret("pepper", f"file:{file}")
    assert f"pepper: the file {file} is empty" == str(caught.value)


def test_a_file_that_cannot_be_read_is_named_and_not_quoted(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(TEXT.encode() + b"\xff")
    for path, kind in ((tmp_path / "missing", "FileNotFoundError"), (tmp_path, "IsADirectoryError"), (binary, "UnicodeDecodeError")):
        with pytest.raises(ConfigurationError) as caught:
            resolve_secret("pepper", f"file:{path}")
        assert f"pepper: the file {path} cannot be read ({kind})" == str(caught.value)
        assert TEXT not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        resolve_secret("pepper", "file:a\x00b")


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["env:X"]])
def test_a_secret_that_is_no_text_is_refused_with_the_name_of_its_option(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^master_key: takes a text, or a reference"):
        resolve_secret("master_key", value)


def test_an_empty_text_is_no_secret() -> None:
    with pytest.raises(ConfigurationError, match=r"^master_key: is empty$"):
        resolve_secret("master_key", "")


def test_a_registered_prefix_asks_the_users_own_function() -> None:
    register_resolver("vault", {"llm/pepper": TEXT}.__getitem__)
    assert TEXT == resolve_secret("pepper", "vault:llm/pepper").reveal()


def test_what_a_resolver_raises_is_not_quoted() -> None:
    def leaky(name: str) -> str:
        raise RuntimeError(f"{name} held {TEXT}")

    register_resolver("vault", leaky)
    with pytest.raises(ConfigurationError) as caught:
        resolve_secret("pepper", "vault:llm/pepper")
    assert "pepper: the resolver 'vault' failed (RuntimeError)" == str(caught.value)
    assert TEXT not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("answer", "problem"), [("", "returned nothing"), (None, "returned nothing"), (TEXT.encode(), "returned bytes")])
def test_what_a_resolver_must_not_return_is_refused_and_not_quoted(answer: Any, problem: str) -> None:
    register_resolver("vault", lambda _: answer)
    with pytest.raises(ConfigurationError, match=problem) as caught:
        resolve_secret("pepper", "vault:llm/pepper")
    assert TEXT not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "Vault", "vault2", "my-vault", "väult", "va ult"])
def test_a_prefix_that_is_no_word_cannot_be_registered(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^prefix: takes a lower-case ASCII word$"):
        register_resolver(prefix, str)


@pytest.mark.parametrize("prefix", ["env", "file", "vault"])
def test_a_prefix_is_registered_once(prefix: str) -> None:
    if prefix == "vault":
        register_resolver("vault", str)
    with pytest.raises(ConfigurationError, match="is taken"):
        register_resolver(prefix, str)
