"""Bytes to values and back: the JSON documents of every format. With report/ the only home of orjson."""
