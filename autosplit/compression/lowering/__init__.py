"""Int8 networks as programs of integer operations, with their memory: what runs on a microcontroller."""

from autosplit.compression.lowering.arena import Arena, plan_arena
from autosplit.compression.lowering.device import int8_skeleton, lower_device, unsupported
from autosplit.compression.lowering.lower import Lowering
from autosplit.compression.lowering.operations import Program

__all__ = ["Arena", "Lowering", "Program", "int8_skeleton", "lower_device", "plan_arena", "unsupported"]
