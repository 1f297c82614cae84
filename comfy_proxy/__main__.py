"""``python -m comfy_proxy``: the same as the command ``comfy-proxy``."""

import sys

from comfy_proxy.cli import main

sys.exit(main())
