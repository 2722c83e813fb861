"""What device and edge agree on: frames, keys, and the interfaces of a bundle's two halves.

Knows neither `device` nor `edge` nor what a bundle looks like on disk. Begin with `wire`; `docs/protocol.md` describes
the frames byte by byte.
"""
