"""The way to the edge for devices that have only a radio or a serial line: packets in, requests out, answers back.

Imports from `protocol`, `bundle`, `device` and `edge`. `fragments` is the format that `docs/protocol.md` describes and
what puts messages together again, `links` where packets come from; begin with `gateway`, the loop between both.
"""
