"""Settings, users and userdata, the same on all instances."""
