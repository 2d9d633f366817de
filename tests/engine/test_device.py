"""Devices and their memory, against folders that hold what Linux tells of a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from caffestat.engine import CPU, Device, choose_device, device, memory
from caffestat.errors import DeviceError, InputError


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "why_no_cuda", lambda index=0: f"there is no GPU {index}")


def test_the_cpu_needs_no_reason() -> None:
    assert choose_device("cpu") == (CPU, "")


@pytest.mark.usefixtures("no_cuda")
def test_auto_takes_the_cpu_and_says_why() -> None:
    assert choose_device("auto") == (CPU, "running on the CPU: there is no GPU 0")


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize(("wanted", "index"), [("cuda", 0), ("cuda:2", 2)])
def test_cuda_is_refused_where_it_cannot_be_used(wanted: str, index: int) -> None:
    with pytest.raises(DeviceError, match=f"--device {wanted} was asked for, but there is no GPU {index}"):
        choose_device(wanted)


def test_an_old_runtime_is_not_used_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(__version__="1.29.1", get_available_providers=lambda: [device.CUDA])
    monkeypatch.setattr(device, "onnxruntime", lambda: old)
    assert "1.30 or newer" in device.why_no_cuda.__wrapped__()


@pytest.mark.parametrize(
    "text", ["/a.cc:63 f() CUDA failure 35: the driver is too old ; GPU=-1 ;", "the driver is too old\n"]
)
def test_the_reason_of_a_failure_is_what_cuda_says(text: str) -> None:
    assert device._reason(text) == "the driver is too old"


def test_an_index_chooses_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "why_no_cuda", lambda index=0: "")
    assert choose_device("cuda:3") == (Device("cuda", 3), "")
    assert choose_device("auto") == (Device("cuda"), "")
    assert [str(Device("cuda", index)) for index in (0, 3)] == ["cuda", "cuda:3"]
    assert Device("cuda", 3).providers[0][1]["device_id"] == "3"


@pytest.mark.parametrize("wanted", ["gpu", "cuda:", "cuda:-1", "cpu:1", "cuda:1 ", "cuda:N"])
def test_other_names_are_refused(wanted: str) -> None:
    with pytest.raises(InputError, match="device: expected one of auto, cpu, cuda, cuda:N, found"):
        choose_device(wanted)


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def system(tmp_path: Path, groups: str, free: int = 9_000) -> tuple[Path, Path]:
    """Return folders in the place of /proc and /sys/fs/cgroup; `free` in kB."""
    proc = tmp_path / "proc"
    write(proc, meminfo=f"MemTotal: 99999 kB\nMemAvailable: {free} kB\nHugePages_Total: 0")
    write(proc / "self", cgroup=groups)
    return proc, tmp_path / "cgroup"


def test_free_memory_where_nothing_limits_it(tmp_path: Path) -> None:
    assert memory.host_bytes(*system(tmp_path, "0::/")) == 9_000 * 1024


def test_a_limit_of_a_group_above_counts(tmp_path: Path) -> None:
    proc, root = system(tmp_path, "0::/a/b")
    write(root / "a" / "b", memory__max="max", memory__current=700)
    write(root / "a", memory__max=5_000, memory__current=3_000, memory__stat="anon 10\ninactive_file 400")
    assert memory.host_bytes(proc, root) == 5_000 - 3_000 + 400


def test_a_limit_of_version_1(tmp_path: Path) -> None:
    proc, root = system(tmp_path, "9:cpu:/x\n4:blkio,memory:/x/y\n0::/")
    names = {"memory__limit_in_bytes": 6_000, "memory__usage_in_bytes": 1_000}
    write(root / "memory", **names, memory__stat="inactive_file 9\ntotal_inactive_file 50")  # the container's root
    assert memory.host_bytes(proc, root) == 6_000 - 1_000 + 50


def test_no_less_than_nothing_is_left(tmp_path: Path) -> None:
    proc, root = system(tmp_path, "0::/")
    write(root, memory__max=100, memory__current=300)
    assert memory.host_bytes(proc, root) == 0


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_ulimit_counts(kind: str) -> None:
    """In a process of its own, of which some memory is used already."""
    limit = 3 << 30
    program = (
        "import resource, caffestat.engine.memory as memory;"
        f"resource.setrlimit(resource.{kind}, ({limit}, {limit}));"
        "print(memory.host_bytes())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < limit - (1 << 20)


def test_a_gpu_without_a_driver_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cuda_driver", lambda: None)
    assert Device("cuda").available_bytes() is None


class Driver:
    """In the place of NVIDIA's library: two devices, the second with 7 bytes free."""

    def __init__(self) -> None:
        self.contexts = 0

    def cuDeviceGetCount(self, count):
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, found, index):
        found._obj.value = index
        return 0 if index < 2 else 101

    def cuDevicePrimaryCtxRetain(self, context, device):
        self.contexts += 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device):
        self.contexts -= 1
        return 0

    def cuCtxPushCurrent_v2(self, context):
        return 0

    def cuCtxPopCurrent_v2(self, context):
        return 0

    def cuMemGetInfo_v2(self, free, total):
        free._obj.value, total._obj.value = 7, 11
        return 0


def test_a_gpu_tells_its_own_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(memory, "cuda_driver", lambda: driver)
    assert Device("cuda", 1).available_bytes() == 7
    assert Device("cuda", 2).available_bytes() is None
    assert driver.contexts == 0
    assert memory.cuda_count(driver) == 2
