"""Where downloaded weights lie, and whether to download any. The environment is read when a function is called."""

import os
from pathlib import Path


def weights_cache() -> Path:
    """The directory of downloaded weights: `WORDSIGHT_CACHE`, or `wordsight/weights` in the user's directory of caches."""
    if told := os.environ.get("WORDSIGHT_CACHE"):
        return Path(told).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "wordsight" / "weights"


def is_offline() -> bool:
    """Whether `WORDSIGHT_OFFLINE` or `HF_HUB_OFFLINE` says that the network is not to be used."""
    return any(
        os.environ.get(name, "").strip().casefold() in ("1", "on", "yes", "true")
        for name in ("WORDSIGHT_OFFLINE", "HF_HUB_OFFLINE")
    )
