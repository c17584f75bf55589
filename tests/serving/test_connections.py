"""Connections to TorchServe, on the loops that serve: asyncio's and uvloop."""

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest
import uvloop

from serving.torchserve.connections import Connections


async def _ask_a_server_that_dies() -> None:
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connections = Connections(f"http://127.0.0.1:{port}", timeout_s=5.0)
    assert (await connections.post("/", b"")).body == b"ok"
    server.close()
    # A killed process resets its connections.
    reset = struct.pack("ii", 1, 0)
    writers[0].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    writers[0].transport.abort()
    await asyncio.sleep(0.05)
    # The idle connection is closed by now, and nobody listens any more.
    with pytest.raises(OSError, match=r"."):
        await connections.post("/", b"")
    await connections.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_server_that_dies_is_an_os_error(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(_ask_a_server_that_dies())
