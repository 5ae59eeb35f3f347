"""What the script `modellab` calls."""

from modellab_async.__main__ import main

__all__ = ["main"]
