"""Hundreds of hostile requests: each is refused with a 4xx and a reason, and the server answers on afterwards."""

import base64
import io
import json
import random
import struct
import zlib

import pytest
from PIL import Image
from servers import LIMITS, encoded

PNG, JPEG = encoded(), encoded(kind="JPEG")
B64 = base64.b64encode(PNG).decode()
RAW, JSON = "application/octet-stream", "application/json"
FORM = "multipart/form-data; boundary=XX"


def png(width, height, data=b"", extra=b""):
    """A PNG whose header claims a size, whatever its data are."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def part(content=PNG, disposition='form-data; name="images"; filename="a"', name="XX"):
    return f"--{name}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"


def nested(opening, closing, depth=100_000):
    return (opening * depth + closing * depth).encode()


def images():
    """Bodies that are no image, or one that is damaged or too large."""
    yield b"", "empty"
    yield from ((content, f"junk {content[:8]!r}") for content in (b"\0", b"GIF89a", b"\xff\xd8\xff", b"BM", b"RIFF"))
    for seed in range(40):
        yield random.Random(seed).randbytes(seed * 37 + 1), f"noise {seed}"
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP"):
        whole = encoded(kind=kind)
        for tenth in range(10):
            yield whole[: max(1, len(whole) * tenth // 10)], f"{kind} cut at {tenth}0%"
    for kind in ("TIFF", "PPM", "ICO", "TGA", "EPS", "PDF", "PCX", "SGI"):
        yield encoded(kind=kind), f"{kind}, which is not read"
    for size in ((1, 10**9), (10**9, 1), (65_535, 65_535), (2**31 - 1, 2**31 - 1), (0, 0), (0, 5), (1001, 1000)):
        yield png(*size), f"a bomb of {size}"
    yield saved(Image.new("1", (20_000, 20_000)), "PNG"), "a bomb that is whole"
    yield saved(Image.new("L", (1, 60_000)), "PNG"), "a sliver that is resized to millions of pixels"
    yield saved(Image.new("L", (60_000, 1)), "JPEG"), "a lying sliver"
    text = b"zTXt"
    bomb = b"k\0\0" + zlib.compress(b"\0" * 100_000_000)
    chunk = struct.pack(">I", len(bomb)) + text + bomb + struct.pack(">I", zlib.crc32(text + bomb))
    yield png(9, 9, b"", chunk), "a bomb of text"
    yield png(40, 40, zlib.compress(b"\0" * 7)), "too little data"
    yield png(40, 40, b"no zlib at all"), "data that are not compressed"
    yield b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"
    yield b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", "XML"
    yield b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n", "PostScript"
    yield b"PK\3\4" + bytes(100), "ZIP"
    yield b"\x7fELF" + bytes(100), "ELF"
    yield b"A" * (LIMITS.body_bytes + 1), "a byte too many"


def json_bodies():
    yield from (
        (body, f"no JSON object {body[:12]!r}")
        for body in (
            *(b"", b" ", b"{", b"}", b"[", b"]", b"null", b"true", b"1", b'"a"', b"[]", b"NaN", b"{]", b"\xff\xfe{}"),
            *(b"\xef\xbb\xbf{}", b"{'images': []}", b'{"images": [}', b'{"images": ["', b"{}{}", b"1" * 5000, b"1e999"),
        )
    )
    yield nested("[", "]"), "nested lists"
    yield nested('{"images":', "}"), "nested objects"
    yield b'{"images":' + nested("[", "]") + b"}", "nested images"
    yield b'{"top": ' + b"9" * 5000 + b', "images": []}', "a long number"
    good = {"images": [B64]}
    for fields in (
        *({}, {"images": None}, {"images": B64}, {"images": {}}, {"images": []}, {"images": [1]}, {"images": [None]}),
        *({"images": [[B64]]}, {"images": [""]}, {"images": ["%%%"]}, {"images": ["QUJ"]}, {"images": ["\u00e9"]}),
        *({"images": [B64 + " "]}, {"images": ["data:image/png;base64," + B64]}, {"images": [B64] * 9}),
        *({"images": [B64, "QUJD"]}, {"images": ["AAAA"]}, {"image": B64}, {"path": "/etc/passwd", **good}),
        *({"url": "file:///etc/passwd", **good}, {"__proto__": {}, **good}, {"": 1, **good}),
        *(
            good | {"top": top}
            for top in (0, -1, 1.5, "a", "", "-1", "+5", "5_0", " 5", "٣", None, True, [], {}, 1e300)
        ),
        *(good | {"features": value} for value in (None, 0, 1, 2.0, "", "yes", [], {}, "TRUE ")),
        *(good | {"model": value} for value in (None, 0, True, [], {}, "", "x", "../../etc", "a" * 9000, "\0", "é")),
    ):
        yield json.dumps(fields).encode(), f"fields {json.dumps(fields)[:60]}"


def forms():
    end = b"--XX--\r\n"
    yield b"", "empty"
    yield end, "no parts"
    yield part(), "no end"
    yield part()[:50] + end, "a part without a body"
    yield part(b"") + end, "an empty file"
    yield part(b"no image") + end, "no image"
    yield part(name="YY") + b"--YY--\r\n", "another boundary"
    yield part() * 9 + end, "too many files"
    yield part() * 2 + part(b"junk") + end, "a bad image among good ones"
    yield part(disposition="form-data") + end, "no name"
    yield part(disposition="") + end, "no disposition"
    yield b"--XX\r\n\r\n" + PNG + b"\r\n" + end, "no headers"
    yield b"--XX\r\n: \r\n\r\n" + PNG + b"\r\n" + end, "an empty header"
    yield b"--XX\r\n" + b"A: b\r\n" * 50_000 + b"\r\nx\r\n" + end, "many headers"
    yield b"--XX\r\n" + b"A" * 900_000 + b": b\r\n\r\nx\r\n" + end, "a long header"
    yield part(disposition='form-data; name="images"') + end, "an image as a field"
    yield part(b"1" * 999_999, 'form-data; name="top"') + end, "a long field"
    for number, name in enumerate(("../../etc/passwd", "", "\0", "images", "top[]", "a" * 9000)):
        yield part(b"5", f'form-data; name="{name}"') + part() + end, f"an unknown field {number}"
    for value in (b"0", b"-1", b"x", b"", b"\xff", b"5\r\n", b"9" * 400):
        yield part(value, 'form-data; name="top"') + part() + end, f"top {value[:9]!r}"
    yield (part(b"5", 'form-data; name="top"') * 2 + part() + end), "top twice"
    yield (part(b"5", 'form-data; name="top"') * 900 + part() + end), "many fields"
    for seed in range(20):
        yield b"--XX\r\n" + random.Random(seed).randbytes(500) + b"\r\n" + end, f"noise {seed}"


def others():
    """(method, path, query, headers, body), each with a name."""
    predict = ("POST", "/v1/predict")
    for kind in (
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/xml",
        "multipart/mixed",
        "*/*",
        "\0",
    ):
        yield (*predict, "", [("content-type", kind)], PNG), f"Content-Type {kind!r}"
    yield (*predict, "", [], PNG), "no Content-Type"
    for kind in (
        *("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 71),
        *('multipart/form-data; boundary="', "multipart/form-data; boundary=YY", "multipart/form-data; charset=zz"),
    ):
        yield (*predict, "", [("content-type", kind)], part() + b"--XX--\r\n"), f"Content-Type {kind[:40]!r}"
    raw = ("content-type", RAW)
    for encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip", "x" * 999):
        yield (*predict, "", [raw, ("content-encoding", encoding)], zlib.compress(PNG)), f"encoding {encoding[:20]}"
    for length in ("-1", "+1", "1e3", "0x10", "٣".encode().decode("latin-1"), "1 2", "", "9" * 30, "99999999", "5,5"):
        yield (*predict, "", [raw, ("content-length", length)], PNG), f"Content-Length {length!r}"
    for query in (
        *("top=0", "top=-1", "top=", "top=a", "top=1.5", "top=1e9", "top=99999999999", "top=5&top=5", "top=%00"),
        *("features=2", "features=", "model=", "model=../..", "model=%00", "model=" + "a" * 5000, "model=a&model=b"),
        *("x=1", "=", "&&=&", "%", "top[]=5", "__proto__=1", "top=%D9%A3", "top=5;features=1", "image=/etc/passwd"),
    ):
        yield (*predict, query, [raw], PNG), f"query {query[:30]}"
    for path in (
        *("/v1", "/v1/", "/v1/predict/", "//v1/predict", "/v1//predict", "/v1/Predict", "/v1/predict/../predict"),
        *(
            "/../../etc/passwd",
            "/v1/predict\0",
            "/%2e%2e/etc/passwd",
            "/static/../app.py",
            "/page.html",
            "/.git/config",
        ),
        *(
            "/v1/predict;a=b",
            "/" + "a" * 9000,
            "/é",
            "/v1/models/../../x",
            "*",
            "",
            "/v1/detect",
            "/metrics/x",
            "/\\..\\x",
        ),
    ):
        yield ("POST", path, "", [raw], PNG), f"POST {path[:30]!r}"
        yield ("GET", path, "", [], b""), f"GET {path[:30]!r}"
    for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "HEAD", "FOO", "post"):
        yield (method, "/v1/predict", "", [raw], PNG), f"{method} of what is posted"
    for path in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models"):
        yield ("POST", path, "", [raw], PNG), f"POST of what is got: {path}"


def cases():
    for content, name in images():
        yield pytest.param("POST", "/v1/predict", "", [("content-type", RAW)], content, id=f"raw: {name}")
    for content, name in json_bodies():
        yield pytest.param("POST", "/v1/predict", "", [("content-type", JSON)], content, id=f"JSON: {name}")
    for content, name in forms():
        yield pytest.param("POST", "/v1/predict", "", [("content-type", FORM)], content, id=f"form: {name}")
    for request, name in others():
        yield pytest.param(*request, id=name)


CASES = list(cases())


def test_there_are_more_than_three_hundred():
    assert len(CASES) > 300


@pytest.mark.parametrize(("method", "path", "query", "headers", "body"), CASES)
def test_a_hostile_request_is_refused_with_a_reason(server, method, path, query, headers, body):
    answer = server.call(method, path, body, headers, query.encode())
    assert 400 <= answer.status < 500, answer.body
    if method != "HEAD":
        reason = answer.json()["error"]
        assert reason and "\n" not in reason and len(reason) < 500
        assert "/site-packages/" not in reason and " at 0x" not in reason  # no path and no address of this process
    assert server.service.batcher.places_taken == server.service.batcher.waiting == 0


@pytest.mark.parametrize(("form", "content"), [(RAW, PNG), (RAW, JPEG), (JSON, json.dumps({"images": [B64]}).encode())])
def test_afterwards_good_requests_are_answered(server, form, content):
    assert server.call("POST", "/v1/predict", content, [("content-type", form)]).status == 200
