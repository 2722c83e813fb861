"""The client on the device: requests, fallback, and the choice of a rate for the link as it is.

Imports `protocol`, and of `bundle` the switching table. Begin with `client.DeviceClient`.
"""
