"""A small CPU worker that speaks ComfyUI's protocol, started by `comfy-proxy demo` only.

It really executes a handful of nodes (OpenCV and Pillow instead of a GPU), says so in
`/system_stats`, and doubles as the test double of the suite: `worker.EmbeddedWorker` in the
process of a test, `process.WorkerProcess` in one of its own, `faults.Faults` for what goes wrong.
Importing the package itself costs nothing; its modules need the extra `embedded`.
"""
