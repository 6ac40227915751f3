"""Published vectors: Wycheproof's, and the examples of RFC 7515, 7520, 7797 and 8037."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm_authmw.errors import TokenInvalid
from llm_authmw.tokens import verify_jws
from llm_authmw.tokens.keys import ALGORITHMS

VECTORS = Path(__file__).parent / "vectors"
EVERY = list(ALGORITHMS)

STRICTER: dict[int, str] = {
    346: "the key is for PS256 and the token is PS384 (RFC 7517 §4.4)",
    350: "the key is for PS256 and the token is PS384 (RFC 7517 §4.4)",
    347: "the key is for ES521, which is no algorithm (RFC 7517 §4.4)",
    351: "the key is for ES521, which is no algorithm (RFC 7517 §4.4)",
    372: "a `?` in the header is no base64url (RFC 7515 §2)",
    373: "a `?` in the payload is no base64url (RFC 7515 §2)",
}
"""Vectors that are called valid, and refused here."""
SAME_AS_A_VALID_ONE: dict[int, int] = {367: 357, 370: 357}
"""Vectors that are called invalid for a padding that they do not have: they are byte for byte another, valid one."""


def groups() -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    for name in ("json_web_key_test.json", "json_web_signature_test.json"):
        for group in json.loads((VECTORS / name).read_text(encoding="utf-8"))["testGroups"]:
            yield group.get("public") or group["private"], group["tests"]


def vectors() -> Iterator[Any]:
    for jwks, tests in groups():
        for test in tests:
            yield pytest.param(jwks, test, id=f"{test['tcId']}")


def text(jws: Any) -> str:
    """Return the vector's JWS, which is JSON where it is not in the compact form."""
    return jws if isinstance(jws, str) else json.dumps(jws)


@pytest.mark.parametrize(("jwks", "test"), list(vectors()))
def test_every_vector_is_judged_as_wycheproof_has_it(jwks: dict[str, Any], test: dict[str, Any]) -> None:
    number = test["tcId"]
    valid = test["result"] == "valid" and number not in STRICTER
    if valid or number in SAME_AS_A_VALID_ONE:
        assert isinstance(verify_jws(test["jws"], jwks, algorithms=EVERY), bytes)
        return
    with pytest.raises(TokenInvalid) as caught:
        verify_jws(text(test["jws"]), jwks, algorithms=EVERY)
    assert caught.value.reason.startswith("token_")


def test_all_vectors_are_there_and_every_deviation_is_one() -> None:
    tests = {test["tcId"]: test for _, group in groups() for test in group}
    assert 26 + 401 == sum(len(tests) for _, tests in groups())
    assert {"valid"} == {tests[number]["result"] for number in STRICTER}
    assert {"invalid"} == {tests[number]["result"] for number in SAME_AS_A_VALID_ONE}
    for number, same in SAME_AS_A_VALID_ONE.items():
        assert tests[same]["jws"] == tests[number]["jws"]
        assert "valid" == tests[same]["result"]


def test_the_examples_of_rfc_7520_verify_with_keys_that_name_no_other_algorithm() -> None:
    found = 0
    for jwks, tests in groups():
        bare = copy.deepcopy(jwks)
        for key in bare.get("keys", [bare]):
            key.pop("alg", None)
        for test in tests:
            if str(test["comment"]).startswith("Figure"):
                payload = verify_jws(test["jws"], bare, algorithms=EVERY)
                assert payload.decode().startswith("It\N{RIGHT SINGLE QUOTATION MARK}s a dangerous business, Frodo")
                found += 1
    assert 8 == found


JOE = b'{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}'
JOE_SEGMENT = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
SECRET = {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}
RSA = {
    "kty": "RSA",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRP"
    "EwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5Zw"
    "Kh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "e": "AQAB",
}
P_256 = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
P_521 = {
    "kty": "EC",
    "crv": "P-521",
    "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
    "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
}
ED25519 = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}

EXAMPLES: dict[str, tuple[dict[str, Any], str, bytes]] = {
    "RFC 7515 A.1": (SECRET, f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{JOE_SEGMENT}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", JOE),
    "RFC 7515 A.2": (
        RSA,
        (
            f"eyJhbGciOiJSUzI1NiJ9.{JOE_SEGMENT}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W"
            "2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOL"
            "n6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQ"
            "Ge77Rw"
        ),
        JOE,
    ),
    "RFC 7515 A.3": (
        P_256,
        f"eyJhbGciOiJFUzI1NiJ9.{JOE_SEGMENT}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        JOE,
    ),
    "RFC 7515 A.4": (
        P_521,
        (
            "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8G"
            "aSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"
        ),
        b"Payload",
    ),
    "RFC 8037 A.4": (
        ED25519,
        (
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVs"
            "Pt9g7sVvpAr_MuM0KAg"
        ),
        b"Example of Ed25519 signing",
    ),
    "RFC 7797 §4.1": (SECRET, "eyJhbGciOiJIUzI1NiJ9.JC4wMg.5mvfOroL-g7HyqJoozehmsaqmvTYGEq5jTI1gVvoEoQ", b"$.02"),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_the_documents_verify(name: str) -> None:
    key, token, payload = EXAMPLES[name]
    assert payload == verify_jws(token, key, algorithms=EVERY)
    assert payload == verify_jws(token, {"keys": [key]}, algorithms=EVERY)


@pytest.mark.parametrize("name", EXAMPLES)
def test_no_example_verifies_with_another_one_s_key_or_with_one_bit_changed(name: str) -> None:
    key, token, _ = EXAMPLES[name]
    for other, *_ in EXAMPLES.values():
        if other is not key:
            with pytest.raises(TokenInvalid):
                verify_jws(token, other, algorithms=EVERY)
    head, _, signature = token.rpartition(".")
    for changed in (f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}", f"{head[:-2]}Ag.{signature}", f"{head}A.{signature}"):
        with pytest.raises(TokenInvalid):
            verify_jws(changed, key, algorithms=EVERY)


REFUSED = {
    "RFC 7515 A.5: unsecured": f"eyJhbGciOiJub25lIn0.{JOE_SEGMENT}.",
    "RFC 7515 A.6: JSON serialization": json.dumps(
        {"payload": JOE_SEGMENT, "signatures": [{"protected": "eyJhbGciOiJFUzI1NiJ9", "signature": "DtEhU3ljbEg8L38VWAfUAqOyKAM6"}]}
    ),
    "RFC 7797 §4.2: detached": "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19..A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY",
    "RFC 7797 §4.2: attached": "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19.$.02.A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY",
    "RFC 7515 A.4 of another curve": EXAMPLES["RFC 7515 A.4"][1],
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("key", [SECRET, RSA, P_256], ids=["secret", "RSA", "P-256"])
def test_examples_of_what_is_not_done_here_are_refused(name: str, key: dict[str, Any]) -> None:
    with pytest.raises(TokenInvalid):
        verify_jws(REFUSED[name], key, algorithms=EVERY)
