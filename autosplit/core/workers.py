"""Workers: pieces of work that do not depend on one another, done here, in processes, or on a cluster.

    with workers_of(jobs=4) as workers:
        for found in workers.map(measure, networks, plans):
            ...

Results come in the order of the pieces, whoever does them, and are those that one process would get: to the last bit on
one kind of processor, if all compute with as many threads. What is shared is handed to each worker once. A piece whose
worker was killed is done again, at most thrice; what was finished is kept.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from autosplit.core.errors import WorkerError

__all__ = ["Here", "Pool", "Workers"]

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")

_log = logging.getLogger(__name__)
_ATTEMPTS = 3
_AHEAD = 2  # pieces in the hands of the pool for each worker, so that none waits for the next


class Workers(ABC):
    """Whoever does independent pieces of work.

    Attributes:
        number: Pieces that are done at a time.
        here: Whether they are this process, so that nothing is done beside what it does.
        option: What a command line asks for them by, such as ` --jobs 4`.
    """

    number: int = 1
    here: bool = False
    option: str = ""

    @abstractmethod
    def map(
        self, work: Callable[[S, T], R], shared: S, pieces: Sequence[T], named: Callable[[T], str] = str
    ) -> Iterator[R]:
        """Do every piece; gives the results in order.

        Args:
            work: A function of a module, called with `shared` and a piece.
            shared: What all pieces need; each worker gets it once. It must stay as it is.
            pieces: What is to be done.
            named: A piece's name for messages.

        Raises:
            WorkerError: The worker of a piece was killed three times.
        """

    def close(self) -> None:  # noqa: B027 (not everybody holds something)
        """End the workers."""

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


class Here(Workers):
    """This process: nothing is done before its result is asked for."""

    here = True

    def map(
        self, work: Callable[[S, T], R], shared: S, pieces: Sequence[T], named: Callable[[T], str] = str  # noqa: ARG002
    ) -> Iterator[R]:
        """See `Workers.map`."""
        return (work(shared, piece) for piece in pieces)


@dataclass
class _Piece(Generic[T]):
    """One piece on its way.

    Attributes:
        index: Its place.
        piece: What is to be done.
        lost: How often its worker was.
    """

    index: int
    piece: T
    lost: int = 0


class Pool(Workers, ABC):
    """Workers that are elsewhere: hands out pieces, puts results in order, and begins anew what was lost.

    Attributes:
        lost: Exceptions that say that a worker is gone.
        together: Whether a worker that is gone takes along what all others have in hand.
    """

    lost: tuple[type[BaseException], ...] = ()
    together: bool = True

    def __init__(self) -> None:
        self._shipped: dict[int, tuple[Any, Any]] = {}  # by identity; the object is kept, so that it stays its own

    def ship(self, shared: Any) -> Any:
        """Make something known to all workers, once; gives what `submit` finds it by."""
        if id(shared) not in self._shipped:
            self._shipped[id(shared)] = shared, self.put(shared)
        return self._shipped[id(shared)][1]

    @abstractmethod
    def put(self, shared: Any) -> Any:
        """Leave something where workers find it; gives what they find it by."""

    @abstractmethod
    def submit(self, work: Callable[[S, T], R], shipped: Any, piece: T) -> Future[tuple[R, list[str]]]:
        """Begin a piece; its result comes with the warnings that were logged meanwhile."""

    @abstractmethod
    def abandon(self) -> None:
        """End workers in the middle of what they do, and forget those that are gone; the next piece finds others."""

    def map(
        self, work: Callable[[S, T], R], shared: S, pieces: Sequence[T], named: Callable[[T], str] = str
    ) -> Iterator[R]:
        """See `Workers.map`."""
        if not pieces:
            return
        shipped = self.ship(shared)
        waiting = deque(_Piece(i, piece) for i, piece in enumerate(pieces))
        flying: dict[Future[tuple[R, list[str]]], _Piece[T]] = {}
        found: dict[int, R] = {}
        done = False
        try:
            for place in range(len(pieces)):
                while place not in found:
                    self._hand_out(work, shipped, waiting, flying)
                    finished, _ = wait(flying, return_when=FIRST_COMPLETED)
                    lost = [piece for future in finished if (piece := self._take(future, flying, found)) is not None]
                    if lost:
                        self._begin_anew(lost, waiting, flying, named)
                done = place == len(pieces) - 1  # whoever takes exactly what there is does not come back
                yield found.pop(place)
        finally:
            if not done:
                self.abandon()

    def _hand_out(
        self, work: Callable[[S, T], R], shipped: Any, waiting: deque[_Piece[T]],
        flying: dict[Future[tuple[R, list[str]]], _Piece[T]],
    ) -> None:
        while waiting and len(flying) < self.number * _AHEAD:
            # what was lost goes alone, so that nobody is blamed for what was beside it
            alone = self.together and (waiting[0].lost or any(piece.lost for piece in flying.values()))
            if alone and flying:
                return
            piece = waiting.popleft()
            flying[self.submit(work, shipped, piece.piece)] = piece

    def _take(
        self, future: Future[tuple[R, list[str]]], flying: dict[Future[tuple[R, list[str]]], _Piece[T]],
        found: dict[int, R],
    ) -> _Piece[T] | None:
        """Note a result; gives the piece if its worker is gone."""
        piece = flying.pop(future)
        try:
            found[piece.index], warnings = future.result()
        except self.lost:
            return piece
        for text in warnings:
            _say_once(text)
        return None

    def _is_lost(self, future: Future[Any]) -> bool:
        """Whether a piece has no result yet, or none because its worker is gone."""
        return not future.done() or isinstance(future.exception(), self.lost)

    def _begin_anew(
        self, lost: list[_Piece[T]], waiting: deque[_Piece[T]], flying: dict[Future[tuple[R, list[str]]], _Piece[T]],
        named: Callable[[T], str],
    ) -> None:
        _say_once("a worker was killed, most likely for want of memory; what it had in hand is done again")
        gone = [future for future in flying if self.together and self._is_lost(future)]
        for piece in (*lost, *(flying.pop(future) for future in gone)):
            piece.lost += 1
            if piece.lost >= _ATTEMPTS:
                raise WorkerError(f"the worker that did {named(piece.piece)} was killed {_ATTEMPTS} times, most likely "
                                  "for want of memory; give it fewer jobs, or more memory")
            waiting.appendleft(piece)
        ordered = sorted(waiting, key=lambda piece: piece.index)
        waiting.clear()
        waiting.extend(ordered)
        if self.together:
            self.abandon()


_said: Counter[str] = Counter()


def _say_once(text: str) -> None:
    _said[text] += 1
    if _said[text] == 1:
        _log.warning("%s", text)
