"""``GET /ws``: one client socket over all instances."""
