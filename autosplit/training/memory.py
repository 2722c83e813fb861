"""Batches that fit into the accelerator's memory: taken in parts where they do not."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch

from autosplit.core.accelerator import Accelerator
from autosplit.core.errors import ConfigError

__all__ = ["Parts"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Parts:
    """In how many parts a batch goes through a network: twice as many whenever memory has run out, for good.

    Args:
        accelerator: Whose memory it is.

    Attributes:
        number: Of parts.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.number = 1

    def run(self, work: Callable[[int], T], images: int, least: int = 1) -> T:
        """Do something with a batch, with as few parts as memory allows.

        Args:
            work: Takes the number of parts; called again, with more, when it runs out of memory.
            images: Of the batch.
            least: Images of a part at least.

        Raises:
            ConfigError: Memory is too little for the smallest part.
        """
        while True:
            try:
                return work(self.number)
            except torch.OutOfMemoryError:
                pass  # what failed holds its memory until this block is left
            if images < 2 * least * self.number:
                raise ConfigError(f"{self._accelerator.name}: out of memory with {-(-images // self.number)} images at "
                                  "a time; free some of it, take smaller images (--image-size), or compute on the "
                                  "processor (--accelerator cpu)")
            self.number *= 2
            gc.collect()
            if self._accelerator.kind == "cuda":
                torch.cuda.empty_cache()
            _say(self._accelerator.name, -(-images // self.number))


@cache
def _say(name: str, images: int) -> None:
    _log.warning("%s: out of memory; going on with %d images at a time", name, images)
