"""Parts of a table that several runs or machines measure, each on its own, and what joins them.

For schedulers that start commands and know nothing of workers. A shard is a file of sealed lines beside the table, one
measurement each; a line counts if it was measured on the very same networks, and is what was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydantic import ValidationError

from autosplit.core.errors import ConfigError, ResultError, unwritable
from autosplit.core.hashing import content_hash, read_sealed, sealed
from autosplit.core.measurement import Measurement
from autosplit.core.plan import Plan
from autosplit.core.records import append_record
from autosplit.evaluation.cached import measurement_file
from autosplit.models.identity import tensors_hash
from autosplit.training.prepare import Networks

__all__ = ["Shard", "networks_hash", "read_shards", "shard_plans", "write_shard"]


@dataclass(frozen=True)
class Shard:
    """One of several parts.

    Attributes:
        number: From 1.
        of: How many there are.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `3/8`.

        Raises:
            ConfigError: It is none.
        """
        found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
        if found is None or int(found[1]) > int(found[2]):
            raise ConfigError(f"shard {text!r}: write NUMBER/OF, such as 3/8, counted from 1")
        return cls(int(found[1]), int(found[2]))

    def path(self, table: Path, name: str) -> Path:
        """The file of this part, beside the table of a name."""
        return table.with_name(f"{name}.{self.number}-of-{self.of}.jsonl")


def shard_plans(plans: Sequence[Plan], shard: Shard) -> list[Plan]:
    """The plans of one part, in their order: whole heads, whose features are computed once, dealt out in turn."""
    heads = [list(members) for _, members in groupby(plans, key=lambda plan: (plan.place, plan.sparsity))]
    return [plan for head in heads[shard.number - 1 :: shard.of] for plan in head]


def networks_hash(networks: Networks) -> str:
    """Hash of everything that a measurement depends on: settings and code, the arithmetic, and the weights as they are.

    Networks that were trained twice by one recipe may differ in the last digits, and so may what is measured on them.
    """
    coded = networks.coded_backbone
    return content_hash([measurement_file(networks).stem, tensors_hash(networks.supernet.state_dict()),
                         tensors_hash(networks.backbone.state_dict()),
                         "" if coded is None else tensors_hash(coded.state_dict())])


def write_shard(path: Path, key: str, measured: Iterable[Measurement]) -> None:
    """Add measurements to the file of a part, each as soon as it is there.

    Args:
        path: The file; made if it is not there.
        key: `networks_hash` of the networks.
        measured: On them.

    Raises:
        ConfigError: The file cannot be written.
    """
    for measurement in measured:
        try:
            append_record(path, sealed({"networks": key, "measurement": measurement.model_dump(mode="json")}))
        except OSError as e:
            raise unwritable(path, e) from e


def read_shards(table: Path, name: str, key: str) -> dict[Plan, Measurement]:
    """What the parts beside a table hold, by plan; damaged lines are left out.

    Args:
        table: The table.
        name: Of it, without suffixes.
        key: `networks_hash` of the networks that the table is of.

    Raises:
        ResultError: A part was measured on other networks.
    """
    found: dict[Plan, Measurement] = {}
    for path in sorted(table.parent.glob(f"{name}.*-of-*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = read_sealed(line)
                measurement = Measurement.model_validate(record["measurement"])
            except (ValueError, KeyError, TypeError, RecursionError, ValidationError):
                continue  # half a line of a process that was killed; its plan is measured again
            if record["networks"] != key:
                raise ResultError(f"{path} was measured on other networks, by another version, or on another kind of "
                                  "processor; let all parts use one cache (AUTOSPLIT_CACHE) with the trained networks, "
                                  "or delete it")
            found.setdefault(measurement.plan, measurement)
    return found
