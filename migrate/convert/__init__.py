"""One run: sources in, a target and its report out."""
