"""Step 1: read a legacy source, never write to it."""
