"""A registry further away: what it sends arrives some milliseconds later, and is counted."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PIECE_BYTES = 1 << 18


class Proxy:
    """Passes on all connections to `port`; `sent` counts the bytes that came from there."""

    def __init__(self, port: int, delay_s: float) -> None:
        self.sent = 0
        self.port = 0
        self._target = port
        self._delay_s = delay_s

    async def serve(self, ready: threading.Event) -> None:
        """Serves for ever."""
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, limit=PIECE_BYTES)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await server.serve_forever()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(
            "127.0.0.1", self._target, limit=PIECE_BYTES
        )
        await asyncio.gather(
            self._copy(reader, there_writer, 0.0), self._copy(there_reader, writer, self._delay_s)
        )

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        """Copies in order, each piece so much later; pieces may be under way at the same time."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def send() -> None:
            while (entry := await pieces.get())[1]:
                await asyncio.sleep(max(0.0, entry[0] - loop.time()))
                if delay_s:
                    self.sent += len(entry[1])
                writer.write(entry[1])
                await writer.drain()

        sender = asyncio.ensure_future(send())
        try:
            while piece := await reader.read(PIECE_BYTES):
                await pieces.put((loop.time() + delay_s, piece))
            await pieces.put((0.0, b""))
            await sender
        except ConnectionError:
            sender.cancel()
        finally:
            writer.close()


@contextmanager
def slow(port: int, delay_s: float) -> Iterator[Proxy]:
    """A proxy before `port`, in a thread of its own for as long as the process lives."""
    proxy, ready = Proxy(port, delay_s), threading.Event()
    threading.Thread(target=lambda: asyncio.run(proxy.serve(ready)), daemon=True).start()
    if not ready.wait(10):
        sys.exit("the proxy does not start")
    yield proxy
