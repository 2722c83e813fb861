"""Timing the operators of a network on the machine that this runs on, and making a device profile of that.

Imports `core` and `models`. Begin with `run`, which is `autosplit profile`.
"""
