"""Where downloaded weights lie, and what is made of them. The environment is read when a function is called."""

import os
from pathlib import Path


def weights_cache() -> Path:
    """The folder of downloaded weights: `WORDSIGHT_CACHE`, or `wordsight/weights` in the user's folder of caches."""
    if told := os.environ.get("WORDSIGHT_CACHE"):
        return Path(told).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "wordsight" / "weights"
