"""Step 4, pure: v1 JSON and diffIDs to config, history, manifest and index."""
