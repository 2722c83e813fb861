"""`Answers`: which images a deployment classified right, and how evenly over the classes."""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from autosplit.core.validation import Frozen

__all__ = ["Answers"]


class Answers(Frozen):
    """What a deployment answered on the images of one part of a data set.

    Two deployments that answered the same images are compared image by image (`autosplit.core.intervals`).

    Attributes:
        images: How many.
        right: Which of them were classified right, in order: a bit each, base64.
        balanced_accuracy: Mean recall of the classes that occur, in [0, 1].
        least_recall: The lowest of them.
        least_recalled: Number of that class.
        most_named_share: Share of all images that were given one class, the one named most often.
        most_named: Number of that class.
        most_common_share: Share of the images that belong to the most common class: what always naming it would get
            right.
    """

    images: int = Field(ge=1)
    right: str
    balanced_accuracy: float = Field(ge=0, le=1)
    least_recall: float = Field(ge=0, le=1)
    least_recalled: int = Field(ge=0)
    most_named_share: float = Field(ge=0, le=1)
    most_named: int = Field(ge=0)
    most_common_share: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _as_many_bits_as_images(self) -> Answers:
        try:
            data = base64.b64decode(self.right, validate=True)
        except binascii.Error as e:
            raise ValueError(f"right: no base64 ({e})") from e
        if len(data) != -(-self.images // 8):
            raise ValueError(f"right: {len(data)} bytes for {self.images} images")
        return self

    @classmethod
    def of(cls, predicted: NDArray[np.integer], labels: NDArray[np.integer]) -> Answers:
        """Answers beside the truth.

        Args:
            predicted: Number of the class named for each image, shape (N,), N at least 1.
            labels: Number of its class, shape (N,).
        """
        right = predicted == labels
        images, hits = np.bincount(labels), np.bincount(labels[right], minlength=int(labels.max()) + 1)
        classes = np.flatnonzero(images)
        recalls = hits[classes] / images[classes]
        named = np.bincount(predicted)
        return cls(
            images=len(labels), right=base64.b64encode(np.packbits(right).tobytes()).decode("ascii"),
            balanced_accuracy=float(recalls.mean()), least_recall=float(recalls.min()),
            least_recalled=int(classes[recalls.argmin()]), most_named_share=float(named.max() / len(labels)),
            most_named=int(named.argmax()), most_common_share=float(images.max() / len(labels)))

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether each image was classified right, shape (images,)."""
        data = np.frombuffer(base64.b64decode(self.right), dtype=np.uint8)
        return np.unpackbits(data, count=self.images).astype(np.bool_)

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return float(self.hits.mean())
