"""What builds pages from the program; no part of the installed package."""
