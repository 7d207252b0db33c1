"""Streams: hashing, compression, limits, atomic files, tar. Independent of image formats."""
