"""devicemapper stores, read from their files: thin pool, thin devices, and the ext4 or XFS inside; no kernel driver."""
