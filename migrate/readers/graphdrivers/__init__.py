"""Layer trees of each storage driver."""
