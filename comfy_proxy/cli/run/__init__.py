"""``comfy-proxy run``: many files through one workflow."""
