"""What more could be saved: the same files in several layers, files that a later layer removes."""
