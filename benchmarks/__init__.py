"""Side-by-side measurements against other programs; see `docs/performance.md`."""
