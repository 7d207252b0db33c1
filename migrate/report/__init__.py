"""The report: its values and figures, and one module for each rendering."""
