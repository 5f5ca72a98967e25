"""The lab for depth-adaptive decoding: one engine, one cache, one clock; methods are small policies on top."""

__version__ = "0.1.0"
