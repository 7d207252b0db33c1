"""Reading an OCI layout: its files, index entries, manifests and images."""
