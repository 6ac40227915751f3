import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from llm_authmw.llm.multipart import MAX_PARTS, Part, boundary_of, parts_of

TYPE = b"multipart/form-data; boundary=x"


def form(*parts: bytes, boundary: bytes = b"x") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--\r\n" % boundary


def field(name: bytes, value: bytes, more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="%b"%b\r\n\r\n%b' % (name, more, value)


def test_fields_and_files_are_read_in_their_order() -> None:
    body = form(
        field(b"model", b"whisper-1"),
        b'content-disposition:form-data;name="file";filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n\x00\r\n--\xff',
        field(b"x", b""),
    )
    assert [Part("model", None, b"whisper-1"), Part("file", "a.wav", b"\x00\r\n--\xff"), Part("x", None, b"")] == parts_of(b"x", body)
    assert 3 == len(parts_of(b"x", body.removesuffix(b"\r\n")))


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (b"multipart/form-data; boundary=abc", b"abc"),
        (b'Multipart/Form-Data;boundary="a b"', None),
        (b'multipart/form-data; boundary="a:b"', b"a:b"),
        (b"multipart/form-data", None),
        (b"multipart/form-data; boundary=", None),
        (b"multipart/form-data; boundary=a; boundary=b", None),
        (b"multipart/form-data; boundary=a; charset=utf-7", None),
        (b"multipart/form-data; boundary*=utf-8''a", None),
        (b"multipart/form-data; boundary=" + b"a" * 71, None),
        (b'multipart/form-data; boundary="a\\"b"', None),
        (b"multipart/mixed; boundary=a", None),
        (None, None),
    ],
)
def test_a_boundary_is_taken_where_all_parsers_take_the_same(content_type: bytes | None, boundary: bytes | None) -> None:
    assert boundary == boundary_of(content_type)


BAD = {
    "nothing": b"",
    "text before the first part": b"hello\r\n" + form(field(b"model", b"a")),
    "a line break before the first part": b"\r\n" + form(field(b"model", b"a")),
    "text behind the last part": form(field(b"model", b"a")) + b"hello",
    "a second form": form(field(b"model", b"a")) + form(field(b"model", b"b")),
    "no end": form(field(b"model", b"a")).removesuffix(b"--x--\r\n"),
    "half an end": form(field(b"model", b"a")).removesuffix(b"-\r\n"),
    "no part": b"--x--\r\n",
    "bare line feeds": form(field(b"model", b"a")).replace(b"\r\n", b"\n"),
    "a boundary behind a bare line feed": form(field(b"file", b'\n--x\nContent-Disposition: form-data; name="model"\n\nb')),
    "a boundary in a text": form(field(b"prompt", b"see --x for more")),
    "blanks behind a boundary": form(field(b"model", b"a")).replace(b"--x\r\n", b"--x \r\n"),
    "a longer boundary": form(field(b"model", b"a\r\n--xy")),
    "no header": form(b"\r\nvalue"),
    "no disposition": form(b"Content-Type: text/plain\r\n\r\nvalue"),
    "another disposition": form(b'Content-Disposition: attachment; name="model"\r\n\r\na'),
    "two dispositions": form(b'Content-Disposition: form-data; name="x"\r\n' + field(b"model", b"a")),
    "two names": form(field(b"x", b"a", b'; name="model"')),
    "an encoded name": form(b"Content-Disposition: form-data; name*=utf-8''model\r\n\r\na"),
    "an encoded file name": form(field(b"file", b"a", b"; filename*=utf-8''a.txt")),
    "two file names": form(field(b"file", b"a", b'; filename="a"; filename="b"')),
    "an unquoted name": form(b"Content-Disposition: form-data; name=model\r\n\r\na"),
    "an escaped quotation mark": form(field(b'x\\"; name=\\"model', b"a")),
    "a percent sign in a name": form(field(b"mod%65l", b"a")),
    "another parameter": form(field(b"model", b"a", b"; size=3")),
    "a folded header": form(b'Content-Disposition: form-data;\r\n name="model"\r\n\r\na'),
    "a blank before the colon": form(b'Content-Disposition : form-data; name="model"\r\n\r\na'),
    "a control character": form(field(b"mod\x00el", b"a")),
    "a carriage return in a header": form(field(b"mod\rel", b"a")),
    "a name that is no UTF-8": form(field(b"mod\xffel", b"a")),
    "an encoding of its own": form(b"Content-Transfer-Encoding: base64\r\n" + field(b"model", b"Z3B0LTRv")),
    "a charset of its own": form(b"Content-Type: text/plain; charset=utf-16\r\n" + field(b"model", b"a")),
    "parts in a part": form(b"Content-Type: multipart/mixed; boundary=y\r\n" + field(b"files", b"--y--")),
    "another header": form(b"X-Model: b\r\n" + field(b"model", b"a")),
    "a header that is too long": form(field(b"model", b"a", b'; filename="%b"' % (b"a" * 5000))),
    "too many parts": form(*[field(b"x", b"a")] * (MAX_PARTS + 1)),
}


@pytest.mark.parametrize("body", [pytest.param(body, id=what) for what, body in BAD.items()])
def test_a_form_that_two_parsers_read_in_two_ways_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        parts_of(b"x", body)


Read = list[tuple[str, str | None, bytes]]


def starlette_reads(body: bytes) -> Read | None:
    async def stream() -> AsyncGenerator[bytes]:
        yield body

    async def parse() -> Read:
        data: FormData = await MultiPartParser(Headers({"content-type": TYPE.decode()}), stream(), max_files=1000, max_fields=1000).parse()
        entries: Read = []
        for name, value in data.multi_items():
            if isinstance(value, UploadFile):
                entries.append((name, value.filename, await value.read()))
            else:
                entries.append((name, None, value.encode()))
        await data.close()
        return entries

    try:
        return asyncio.run(parse())
    except MultiPartException:
        return None


def python_multipart_reads(body: bytes) -> Read | None:
    entries: Read = []

    def on_field(found: Any) -> None:
        entries.append(((found.field_name or b"").decode(), None, found.value or b""))

    def on_file(found: Any) -> None:
        found.file_object.seek(0)
        entries.append((found.field_name.decode(), found.file_name.decode(), found.file_object.read()))

    parser = FormParser("multipart/form-data", on_field, on_file, boundary=b"x")
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        return None
    return entries


PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\n",
        b"--x",
        b"--x--",
        b"--x\r\n",
        b"\r\n--x\r\n",
        b"\r\n--x--\r\n",
        b"Content-Disposition: form-data; ",
        b'name="model"',
        b'name="model"; ',
        b'filename="f"',
        b"\r\n\r\n",
        b"cheap",
        b"secret",
        b"Content-Type: text/plain",
        b'Content-Disposition: form-data; name="model"\r\n\r\nsecret',
        b" ",
        b"\xff",
    ]
)
PLAIN = form(field(b"model", b"cheap"), field(b"file", b"bytes", b'; filename="f"'))


def mutated(at: int, piece: bytes, cut: int) -> bytes:
    return PLAIN[:at] + piece + PLAIN[at + cut :]


MUTATED = st.builds(mutated, st.integers(0, len(PLAIN)), PIECES, st.integers(0, 4))


@given(MUTATED | st.lists(PIECES, max_size=12).map(b"".join))
@example(PLAIN)
def test_what_is_read_is_what_other_parsers_read(body: bytes) -> None:
    try:
        parts = parts_of(b"x", body)
    except ValueError:
        return
    mine = [(part.name, part.filename, part.content) for part in parts]
    # A file without a name is a field to some: whoever reads names of models from parts refuses a file in their place.
    assert mine == python_multipart_reads(body)
    theirs = starlette_reads(body)
    if all(is_text(content) for _, filename, content in mine if filename is None):
        assert sorted(mine, key=repr) == sorted(theirs or [], key=repr)


def is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True
