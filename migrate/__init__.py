"""Turns pre-1.10 Docker images into content-addressable ones, offline.

For programs: `from migrate import api` (docs/reference/api.md).
"""

__version__ = "0.2.0"
