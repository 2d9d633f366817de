"""How much memory a run can take: on the host within the limits of the process, on a GPU what its driver says."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["cuda_bytes", "cuda_count", "cuda_driver", "host_bytes"]

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


def host_bytes(proc: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """Return the least of the host's free memory and of what the control groups and `ulimit` leave to the process.

    None where the system tells none of them.
    """
    found = [_free(proc), *_left_by_cgroups(proc, cgroup), *_left_by_ulimit(proc)]
    return min((max(count, 0) for count in found if count is not None), default=None)


def _table(path: Path, unit: int = 1) -> dict[str, int]:
    """Return the numbers of a file with lines of a name and a number; {} when it cannot be read."""
    try:
        rows = [line.replace(":", " ").split() for line in path.read_text().splitlines()]
        return {row[0]: int(row[1]) * unit for row in rows if len(row) > 1 and row[1].isdigit()}
    except OSError:
        return {}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # a limit may be "max"
        return None


def _free(proc: Path) -> int | None:
    """Return the free memory, caches that can be dropped included. Elsewhere than on Linux, ask the C library."""
    available = _table(proc / "meminfo", 1024).get("MemAvailable")
    if available is not None:
        return available
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _left_by_cgroups(proc: Path, root: Path) -> Iterator[int | None]:
    """Yield what the process's control groups, of version 2 and 1, and those that hold them, leave of their limits."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _left_in(root, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _left_in(root / "memory", path, *names)


def _left_in(root: Path, path: str, limit: str, usage: str, droppable: str) -> Iterator[int | None]:
    """Yield what is left in each group from `path` up; in a container the path of the host may be mounted as root."""
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(root):
            most, used = _number(folder / limit), _number(folder / usage)
            if most is not None and used is not None:
                yield most - used + _table(folder / "memory.stat").get(droppable, 0)


def _left_by_ulimit(proc: Path) -> Iterator[int]:
    """Yield what `ulimit -v` and `ulimit -d` leave to the process."""
    try:
        import resource
    except ImportError:  # Windows
        return
    used = _table(proc / "self" / "status", 1024)
    for limit, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        most = resource.getrlimit(limit)[0]
        if most != resource.RLIM_INFINITY and name in used:
            yield most - used[name]


@cache
def cuda_driver() -> ctypes.CDLL | None:
    """Return NVIDIA's driver library, started; None where there is none."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    driver.cuInit(0)  # when it fails, so does every call after it
    return driver


def cuda_count(driver: ctypes.CDLL) -> int:
    """Return how many CUDA devices the process sees."""
    count = ctypes.c_int(0)
    return count.value if driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def cuda_bytes(index: int) -> int | None:
    """Return the free memory of a CUDA device, None when the driver does not say.

    The driver tells it within a context; the primary one is that which the runtime uses too.
    """
    driver = cuda_driver()
    if driver is None:
        return None
    device, context = ctypes.c_int(), ctypes.c_void_p()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    if driver.cuDeviceGet(ctypes.byref(device), index) or driver.cuDevicePrimaryCtxRetain(
        ctypes.byref(context), device
    ):
        return None
    try:
        driver.cuCtxPushCurrent_v2(context)
        failed = driver.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
    finally:
        driver.cuDevicePrimaryCtxRelease_v2(device)
    return None if failed else free.value
