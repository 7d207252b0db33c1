"""An OCI layout: what is in it."""
