"""The targets: everything that images can be written to."""
