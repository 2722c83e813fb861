"""What crosses the channel, as bytes: entropy-coded symbols, raw features, image files.

Imports the package's errors and images alone. Begin with `coder.PayloadCoder`; `docs/protocol.md` describes the bytes.
"""
