"""Turns pre-1.10 Docker images into content-addressable ones, offline."""

__version__ = "0.1.0"
