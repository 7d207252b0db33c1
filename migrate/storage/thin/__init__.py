"""Thin pools of the device mapper, read from their data and metadata without a kernel driver."""
