"""Step 5: the places an image can be written to."""
