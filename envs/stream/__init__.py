"""Control over time: pictures arrive one after the other at a device whose processor, link and battery are scarce.

Begin with `stream` (what a stream is), then `core` (how time goes on) and `view` (what a device knows), then `env` and
`vector` (the same for Gymnasium).
"""
