"""A small CPU worker that speaks ComfyUI's protocol, started by `comfy-proxy demo` only.

It executes a handful of nodes for real (OpenCV and Pillow instead of a GPU) and says in
`/system_stats` what it is. The tests use it in place of ComfyUI: `worker.EmbeddedWorker` in the
process of a test, `process.WorkerProcess` in one of its own, `faults.Faults` for what goes wrong.
Importing the package itself loads nothing; its modules need the extra `embedded`.

Its oddities are those of ComfyUI 0.3.75: `tests/protocol` compares it with recordings of a real
server, which "recorded" and "the real server" in its comments mean. Started as one of 2026 it adds
what the newer frontend and our jobs use of a 0.33.0 (`job_routes.py`, `asset_routes.py`); that is
recorded, too.
"""
