"""A server that does nothing: what the load itself can do at most. Usage: ``noop.py PORT``."""

import asyncio
import sys
from typing import Any

import uvloop

_ANSWER = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class _Noop(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, _: bytes) -> None:
        self._transport.write(_ANSWER)  # each request comes in one piece


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Noop, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
