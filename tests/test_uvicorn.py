"""The protocols for uvicorn, without a connection; `tests/interop/test_client_certificates.py` has real ones."""

import asyncio
import importlib
import importlib.util
import sys
from typing import Any

import pytest

import llm_authmw.uvicorn
from llm_authmw.uvicorn import TLSExtension, with_tls_extension


def imported_anew(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delitem(sys.modules, "llm_authmw.uvicorn")
    monkeypatch.delattr("llm_authmw.uvicorn")
    return importlib.import_module("llm_authmw.uvicorn")


def test_without_uvicorn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn.protocols.http.h11_impl", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'llm-authmw\[server\]'"):
        imported_anew(monkeypatch)


def test_without_httptools_its_protocol_is_not_there_and_the_other_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    module = imported_anew(monkeypatch)
    assert hasattr(module, "H11TLSProtocol")
    assert not hasattr(module, "HttpToolsTLSProtocol")


def test_a_protocol_gets_the_extension_once() -> None:
    plain: Any = asyncio.Protocol
    own: Any = llm_authmw.uvicorn.H11TLSProtocol
    extended: Any = with_tls_extension(plain)
    assert issubclass(extended, TLSExtension)
    assert extended is with_tls_extension(plain) is with_tls_extension(extended)
    assert own is with_tls_extension(own)
