"""`Controller`: what all of them have in common."""

from __future__ import annotations

from typing import Protocol

from .view import IntArray, View

__all__ = ["Controller"]


class Controller(Protocol):
    """Decides what n devices do with the picture in hand."""

    def decide(self, view: View) -> IntArray:
        """Numbers of levels, or K to skip, shape (n,).

        Args:
            view: What the devices know.
        """
        ...
