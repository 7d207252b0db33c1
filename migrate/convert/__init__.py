"""One run: converts sources into one target, and makes the report."""
