"""A link in user space: a TCP proxy that holds every byte back until its turn, at a rate that follows a trace.

Each direction is a queue of its own: bytes leave it one after the other at the rate of the moment, and arrive a fixed
delay later. Bytes of all connections share the queue, as devices share a radio. TCP's and IP's headers are not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np

__all__ = ["Trace", "shape"]

_STEP_S = 0.001  # in which the rate is taken as constant
_READ_BYTES = 1 << 16


@dataclass(frozen=True)
class Trace:
    """A rate over time, straight between its points on a logarithmic scale; the last one lasts.

    Attributes:
        seconds: Of each point, ascending from 0.
        kbps: Rate at each point.
    """

    seconds: tuple[float, ...]
    kbps: tuple[float, ...]

    def at(self, second: float) -> float:
        """The rate at a time, kilobits per second; before the beginning that of the first point."""
        return float(np.exp(np.interp(second, self.seconds, np.log(self.kbps))))

    def sent_by(self, second: float, count: int) -> float:
        """When so many bytes have left that begin at a time."""
        bits = 8.0 * count
        while (part := self.at(second) * 1000 * _STEP_S) < bits:
            bits -= part
            second += _STEP_S
        return second + bits / (self.at(second) * 1000)


class _Direction:
    """One direction of the link."""

    def __init__(self, trace: Trace, delay_ms: float) -> None:
        self.trace, self.delay_s = trace, delay_ms / 1000
        self.begun_s = float("inf")  # of the trace (`time.monotonic`): until then its first rate
        self._free_s = 0.0

    def arrival_s(self, count: int) -> float:
        """When bytes that come now are on the other side."""
        start_s = max(time.monotonic(), self._free_s)
        if start_s < self.begun_s:
            self._free_s = start_s + 8 * count / (1000 * self.trace.kbps[0])
        else:
            self._free_s = self.begun_s + self.trace.sent_by(start_s - self.begun_s, count)
        return self._free_s + self.delay_s


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: _Direction) -> None:
    """Everything from one end to the other, until that ends."""
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while (item := await held.get())[1]:
            await asyncio.sleep(max(0.0, item[0] - time.monotonic()))
            sink.write(item[1])
        sink.close()

    delivering = asyncio.create_task(deliver())
    with contextlib.suppress(OSError):
        while data := await source.read(_READ_BYTES):
            held.put_nowait((way.arrival_s(len(data)), data))
    held.put_nowait((0.0, b""))
    await delivering


async def _run(edge: tuple[str, int], up: _Direction, down: _Direction, pipe: Connection) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*edge)
        with contextlib.suppress(asyncio.CancelledError):  # the link ends while a device is still connected
            await asyncio.gather(_carry(reader, back, up), _carry(there, writer, down))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    pipe.send(server.sockets[0].getsockname()[1])
    while (said := await asyncio.to_thread(pipe.recv)) is not None:
        up.begun_s = down.begun_s = said
    server.close()


def shape(edge: tuple[str, int], trace: Trace, delay_ms: float, pipe: Connection) -> None:
    """Run a link; for a process of its own.

    Args:
        edge: Host and port at its far end.
        trace: Rate in each direction.
        delay_ms: Of each direction.
        pipe: Sends the port that devices connect to; takes the time that the trace begins at (`time.monotonic`), any
            number of times, and `None` to end.
    """
    asyncio.run(_run(edge, _Direction(trace, delay_ms), _Direction(trace, delay_ms), pipe))
