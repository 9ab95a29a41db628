"""The memory of the machine, or of the container in which this process runs."""

import contextlib
import os
from pathlib import Path, PurePosixPath

_FALLBACK_BYTES = 4 << 30  # half of a small laptop, for machines whose memory is unknown
_NO_LIMIT = 1 << 60  # cgroups without a limit report 2^63 - 4096


def machine_bytes() -> int:
    """Return the memory of the machine or of its container; a guess if the system does not say."""
    return min(_physical_bytes() or _FALLBACK_BYTES, *_cgroup_limits())


def _physical_bytes() -> int:
    if os.name == "nt":
        return _windows_bytes()
    sysconf = getattr(os, "sysconf", None)
    try:
        return sysconf("SC_PAGE_SIZE") * sysconf("SC_PHYS_PAGES") if sysconf else 0
    except (ValueError, OSError):  # the system does not know the name
        return 0


def _windows_bytes() -> int:
    """`ullTotalPhys` of `GlobalMemoryStatusEx` (Win32 API, sysinfoapi.h); 0 if the call fails."""
    import ctypes

    status = (ctypes.c_uint64 * 8)()  # MEMORYSTATUSEX: two 32-bit numbers, then seven of 64 bits
    status[0] = ctypes.sizeof(status)  # dwLength; little-endian
    windll = getattr(ctypes, "windll", None)
    return int(status[1]) if windll and windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else 0


def _cgroup_limits(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """The limits of this process's memory cgroups and of those above them (Linux, cgroup v1 and v2).

    Source: Linux's Documentation/admin-guide/cgroup-v2.rst (`memory.max`) and cgroup-v1/memory.rst.
    """
    try:
        groups = [line.split(":", 2) for line in proc.read_text("utf-8", "replace").splitlines()]
    except OSError:
        groups = []
    limits = [_NO_LIMIT]
    for _, controllers, path in (group for group in groups if len(group) == 3):
        if controllers not in ("", "memory"):
            continue
        base, file = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        for directory in (path, *map(str, PurePosixPath(path).parents), "/"):
            with contextlib.suppress(OSError, ValueError):  # no such file, or `max`
                limits.append(int((base / directory.strip("/") / file).read_text("utf-8")))
    return [limit for limit in limits if limit > 0]
