"""Streams: hashing, compression, limits, atomic files, tar. Knows no image format."""
