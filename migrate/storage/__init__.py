"""Named files below a root."""
