"""comfy_proxy."""
