"""Thin pools of the device mapper, read from their data and metadata; no kernel driver."""
