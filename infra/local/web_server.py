"""What the Functions host's web server does with a request before any function is looked for.

It refuses what it cannot read, with an empty response, and it reads more than aiohttp does: any method, headers that
come twice, a length beside chunks. So each head is checked here, and rewritten where aiohttp would refuse it. After a
request with chunks, a connection keeps to aiohttp's own rules.

Sources: RFC 9112; ASP.NET Core, KestrelServerLimits; what the Functions host was seen to do.
"""

import re
from collections import deque
from http import HTTPStatus
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

MAX_REQUEST_LINE = 8_192
MAX_HEADER_BYTES = 32_768
MAX_HEADERS = 100

_END = b"\r\n\r\n"
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"[!-~]+")
_PARSED = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"})
"""The methods that aiohttp's parser is given; it knows the others not at all, or as something special."""


class WebServer(web.Server):
    """aiohttp's server with these rules."""

    def __call__(self) -> RequestHandler:
        """Make the protocol of a new connection."""
        return _Connection(self, loop=self._loop, **self._kwargs)


def method_of(request: web.BaseRequest) -> str:
    """The method as it was sent, in upper case, as an app sees it."""
    methods = request.protocol.methods if isinstance(request.protocol, _Connection) else None
    return methods.popleft() if methods else request.method


class _Refused(Exception):
    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


class _Connection(RequestHandler):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        longest = 2 * MAX_HEADER_BYTES  # never reached
        super().__init__(
            *arguments, **options, max_line_size=longest, max_field_size=longest, max_headers=2 * MAX_HEADERS
        )
        self.methods: deque[str] = deque()
        self._head = b""
        self._body_left = 0
        self._chunked = False

    def data_received(self, data: bytes) -> None:
        """Pass on each head that is in order, and the body that follows it."""
        if not self._body_left and not self._chunked:
            self._head += data
            try:
                data = self._checked()
            except _Refused as refused:
                self._refuse(refused.status)
                return
            if not data:
                return
        passed, rest = (data, b"") if self._chunked else (data[: self._body_left], data[self._body_left :])
        self._body_left -= len(passed)
        super().data_received(passed)
        if rest:
            self.data_received(rest)

    def _checked(self) -> bytes:
        """The head that is complete, and what came after it; nothing yet if none is."""
        self._head = self._head.lstrip(b"\r\n")
        head, end, rest = self._head.partition(_END)
        _check_size(head)
        if not end:
            return b""
        line, *fields = head.split(b"\r\n")
        names, values, length = _headers(fields, http_1_0=line.endswith(b" HTTP/1.0"))
        method, line = _request_line(line)
        self._head = b""
        self.methods.append(method)
        self._chunked = b"transfer-encoding" in names
        head = b"\r\n".join([line, *fields])
        if len(set(names)) < len(names) or (self._chunked and length is not None):
            head = b"\r\n".join([line, *_merged(names, values, with_length=not self._chunked)])
        head += _END
        self._body_left = len(head) + (length or 0)
        return head + rest

    def _refuse(self, status: HTTPStatus) -> None:
        if self.transport is not None:
            head = f"HTTP/1.1 {status} {status.phrase}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            self.transport.write(head.encode())
        self.force_close()


def _check_size(head: bytes) -> None:
    """Refuse a head, or the beginning of one, that is too large or has ends of lines of other kinds."""
    line, _, fields = head.partition(b"\r\n")
    if len(line) + 2 > MAX_REQUEST_LINE:
        raise _Refused(HTTPStatus.REQUEST_URI_TOO_LONG)
    if len(fields) > MAX_HEADER_BYTES or fields.count(b"\r\n") >= MAX_HEADERS:
        raise _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    if head.count(b"\n") != head.count(b"\r\n"):
        raise _Refused(HTTPStatus.BAD_REQUEST)


def _request_line(line: bytes) -> tuple[str, bytes]:
    """The method in upper case, and the line for aiohttp."""
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _TARGET.fullmatch(parts[1]):
        raise _Refused(HTTPStatus.BAD_REQUEST)
    method, target, version = parts
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise _Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    if b"%00" in target.partition(b"?")[0]:
        raise _Refused(HTTPStatus.BAD_REQUEST)
    method = method.upper()
    return method.decode(), b" ".join([method if method in _PARSED else b"POST", target, version])


def _headers(fields: list[bytes], *, http_1_0: bool) -> tuple[list[bytes], list[bytes], int | None]:
    """The names in lower case, the values, and the length of the body if one is declared."""
    names, values = [], []
    for field in fields:
        name, colon, value = field.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or b"\0" in value or b"\r" in value or not _is_utf8(value):
            raise _Refused(HTTPStatus.BAD_REQUEST)
        names.append(name.lower())
        values.append(value.strip(b" \t"))
    lengths = [value for name, value in zip(names, values, strict=True) if name == b"content-length"]
    hosts = names.count(b"host")
    if hosts == 0 and http_1_0:
        raise _Refused(HTTPStatus.INTERNAL_SERVER_ERROR)
    if hosts != 1 or len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raise _Refused(HTTPStatus.BAD_REQUEST)
    return names, values, int(lengths[0]) if lengths else None


def _merged(names: list[bytes], values: list[bytes], *, with_length: bool) -> list[bytes]:
    """The fields with the values of one name joined, and without a length beside chunks."""
    merged: dict[bytes, list[bytes]] = {}
    for name, value in zip(names, values, strict=True):
        if with_length or name != b"content-length":
            merged.setdefault(name, []).append(value)
    return [name + b": " + b",".join(several) for name, several in merged.items()]


def _is_utf8(value: bytes) -> bool:
    if value.isascii():
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
