"""The client on the device: requests, fallback, the choice of a rate for the link as it is, and streams of pictures.

Imports `protocol`, `control`, and of `bundle` the manifest. Begin with `client.DeviceClient`, then `stream`.
"""
