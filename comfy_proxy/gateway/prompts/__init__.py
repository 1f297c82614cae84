"""``POST /prompt``: which instance takes a prompt, and when it moves to another."""
