"""Deployments as C for microcontrollers: `autosplit export --target c`."""

from autosplit.runtime.c.export import write_c
from autosplit.runtime.c.programs import DevicePrograms, lower_device

__all__ = ["DevicePrograms", "lower_device", "write_c"]
