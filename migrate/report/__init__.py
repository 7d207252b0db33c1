"""The report: pure figures, and one file for each rendering."""
