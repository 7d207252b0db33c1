"""Step 3: layer bytes to diffID and blob; identical layers become one blob."""
