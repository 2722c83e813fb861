"""Deployments as C for microcontrollers: `autosplit export --target c`."""

from autosplit.runtime.c.export import write_c
from autosplit.runtime.c.programs import DevicePrograms, device_programs

__all__ = ["DevicePrograms", "device_programs", "write_c"]
