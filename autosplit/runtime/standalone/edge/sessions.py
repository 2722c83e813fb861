"""Who uses the edge: sessions, replayed frames, limits. All tables are bounded; time is handed in, in seconds."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ..protocol.wire import Reason

__all__ = ["Sessions", "TokenBucket"]


@dataclass
class TokenBucket:
    """So many frames a second on average, and so many at once.

    Attributes:
        rate: Tokens that come back each second; 0 = no limit.
        burst: Most tokens that it holds; it starts full.
        tokens: Tokens it holds at `time_s`.
        time_s: When that was.
    """

    rate: float
    burst: float
    tokens: float
    time_s: float

    def take(self, now_s: float) -> bool:
        """Take one token, if there is one."""
        # filled up when it is looked at: no timer is needed for each device
        self.tokens = min(self.burst, self.tokens + self.rate * max(0.0, now_s - self.time_s))
        self.time_s = now_s
        if self.rate and self.tokens < 1:
            return False
        self.tokens -= 1
        return True


@dataclass
class _Session:
    number: int
    device: bytes
    time_s: float  # of its last frame
    last_sequence: int = 0


class Sessions:
    """The sessions of a server: one a connection, each with a number that this server drew.

    A frame counts only in the session of its own connection and with a sequence number above all before it. So frames
    that were recorded earlier, on another connection or before a restart, are refused.

    Args:
        limit: Most connections with a session, and most devices, that are remembered.
        idle_s: After so long without a frame both are forgotten.
        rate: Frames a second of one device, whatever its connections; 0 = no limit.
        burst: Frames at once; 0 = as many as `rate` allows in a second, at least one.
    """

    def __init__(self, limit: int, idle_s: float, rate: float = 0.0, burst: float = 0.0) -> None:
        self._limit, self._idle_s, self._rate = limit, idle_s, rate
        self._burst = burst or max(1.0, rate)
        # both in order of when they were last seen, so that the silent ones are found without a search
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._devices: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, connection: bytes, device: bytes, now_s: float) -> int | Reason:
        """Begin a session, in place of the connection's former one.

        Returns:
            Its number, or why there is none: `FULL` or `RATE`.
        """
        self.forget(now_s)
        if connection not in self._sessions and len(self._sessions) >= self._limit:
            return Reason.FULL
        if device not in self._devices and len(self._devices) >= self._limit:
            return Reason.FULL
        if not self._token(device, now_s):
            return Reason.RATE
        # drawn and not counted, so that frames recorded in a session before a restart do not fit one after it
        number = 1 + secrets.randbelow((1 << 32) - 1)
        self._sessions[connection] = _Session(number, device, now_s)
        self._sessions.move_to_end(connection)
        return number

    def admit(self, connection: bytes, number: int, sequence: int, now_s: float) -> Reason | None:
        """Why a frame of a session is refused; `None` where it is not."""
        found = self._sessions.get(connection)
        if found is None or found.number != number:
            return Reason.SESSION
        if sequence <= found.last_sequence:
            return Reason.REPLAY  # no window of accepted numbers is needed: a TCP connection keeps the order
        found.last_sequence, found.time_s = sequence, now_s
        self._sessions.move_to_end(connection)
        return None if self._token(found.device, now_s) else Reason.RATE

    def close(self, connection: bytes) -> None:
        """End a connection's session, if it has one."""
        self._sessions.pop(connection, None)

    def forget(self, now_s: float) -> None:
        """Drop sessions and devices that were silent for too long."""
        tables: tuple[OrderedDict[bytes, Any], ...] = (self._sessions, self._devices)
        for table in tables:
            while table and next(iter(table.values())).time_s < now_s - self._idle_s:
                table.popitem(last=False)

    def _token(self, device: bytes, now_s: float) -> bool:
        if device not in self._devices:
            self._devices[device] = TokenBucket(self._rate, self._burst, self._burst, now_s)
        self._devices.move_to_end(device)
        return self._devices[device].take(now_s)
