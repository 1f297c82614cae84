"""The conversation that is held directly and through the proxy, in its order."""

from __future__ import annotations

import kinds_files
import kinds_nodes
import kinds_prompts
import kinds_wire
from kinds import Kind

WITH_ANY: tuple[Kind, ...] = (
    *kinds_wire.INSTALLED,
    *kinds_files.UPLOADS,
    *kinds_files.VIEWS,
    *kinds_prompts.PROMPTS,
    *kinds_prompts.REFUSED,
    *kinds_prompts.RUNNING,
    *kinds_prompts.VIEWS,
    *kinds_files.STATE,
    *kinds_files.STATIC,
    *kinds_wire.WIRE,
    *kinds_wire.SOCKETS,
)
"""What every ComfyUI can be asked, an embedded worker too."""
WITH_REAL: tuple[Kind, ...] = (
    *WITH_ANY,
    *kinds_nodes.ROUTES,
    *kinds_nodes.SOCKETS,
    *kinds_nodes.TOO_LARGE,
)
"""And what the test's custom node adds, and what takes longer."""
