"""The Comfy API v2 over all instances, as Comfy's own SDKs speak it."""
