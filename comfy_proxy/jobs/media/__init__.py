"""Files as such: what they are, and pictures read and written."""
