"""`python -m localhyper`."""

from __future__ import annotations

import sys

from localhyper.cli import main

if __name__ == "__main__":
    sys.exit(main())
