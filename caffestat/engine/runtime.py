"""The one import of onnxruntime, and the one conversion of its errors to ours."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from caffestat.errors import RunError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from onnx import ModelProto

__all__ = [
    "channel_block",
    "interruptible",
    "onnxruntime",
    "open_session",
    "ops_on_cpu",
    "runtime_errors",
    "session_options",
    "share_memory",
    "thread_count",
    "use_threads",
]

T = TypeVar("T")

_WHERE = re.compile(r"running (\S+) node\. Name:'([^']*)' Status Message: (.*)", re.DOTALL)
_NAMED = re.compile(r"node (?:\(([^)]*)\)|with name '([^']*)')", re.IGNORECASE)  # of a model that it does not open
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")


def onnxruntime() -> Any:
    """Return the onnxruntime module, imported with its telemetry, which writes files and looks up a host, off."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the module is loaded
    return importlib.import_module("onnxruntime")


def session_options() -> Any:
    """Return settings of a session that logs nothing: what the runtime refuses, it raises."""
    options = onnxruntime().SessionOptions()
    options.log_severity_level = 4
    return options


def open_session(model: ModelProto, options: Any, providers: Sequence[Any] = ("CPUExecutionProvider",)) -> Any:
    """Return a session of a model. Raises what the runtime raises (see `runtime_errors`).

    What fails on a device fails: the runtime would print that to standard output and do it once more on the CPU.
    """
    content = model.SerializeToString()
    return onnxruntime().InferenceSession(content, options, providers=list(providers), enable_fallback=0)


def ops_on_cpu(session: Any) -> set[str]:
    """Return the ops of a session that records its assignments which it runs on the CPU.

    onnxruntime before 1.24 records none.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return set()
    parts = session.get_provider_graph_assignment_info()
    return {node.op_type for part in parts if part.ep_name == "CPUExecutionProvider" for node in part.get_nodes()}


_threads = [0]


def use_threads(count: int) -> None:
    """Let graphs that are compiled from now on run on so many threads; 0 for one per core.

    Several processes that share a machine are faster with one thread each.
    """
    _threads[0] = count


def thread_count() -> int:
    """Return what `use_threads` has set."""
    return _threads[0]


def share_memory(options: Any) -> None:
    """Let the sessions of these options take their memory on the CPU from one pool of the process.

    Sessions that run one after the other then use the same memory: a quarter less on GoogLeNet, cut into three.
    """
    if _register_pool():
        options.add_session_config_entry("session.use_env_allocators", "1")


@functools.cache
def _register_pool() -> bool:
    """Make the pool, with the runtime's own settings, and tell whether there is one."""
    ort = onnxruntime()
    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(where, None)
    except Exception:  # the runtime raises several private types; the pool only saves memory
        return False
    return True


def interruptible(run: Callable[[Any], T]) -> T:
    """Call `run` with the runtime's run options; Ctrl-C ends it at the next node, where it alone would go on."""
    from concurrent.futures import wait

    options = onnxruntime().RunOptions()
    if threading.current_thread() is not threading.main_thread():
        return run(options)
    running = []
    try:
        running.append(_worker(os.getpid()).submit(run, options))
        return running[0].result()
    except KeyboardInterrupt:
        options.terminate = True
        wait(running)
        raise


@functools.cache
def _worker(process: int) -> ThreadPoolExecutor:
    """Return the thread in which a process runs what can be interrupted; a new one takes longer than a small net."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1)


@contextlib.contextmanager
def runtime_errors() -> Iterator[None]:
    """Convert the runtime's errors to RunError; only calls of the runtime belong inside."""
    try:
        yield
    except Exception as error:  # the runtime raises several private types
        text = _CODE.sub("", str(error)).strip()
        where = _WHERE.search(text)
        named = _NAMED.search(text)
        op, node, text = where.groups() if where else ("", "".join(filter(None, named.groups())) if named else "", text)
        reason = (text.splitlines() or [type(error).__name__])[0]
        raise RunError(f"onnxruntime cannot run the model: {f'{op}: ' * bool(op)}{reason}", node) from error


@functools.cache
def channel_block() -> int:
    """Return the channels per block of the layout that convolutions on the CPU are fastest in; 0 when there is none.

    A one-node model tells it: the layout pads four channels to a block. (onnxruntime, nchwc_ops.cc)
    """
    from caffestat.graph import Graph, blocked

    graph = Graph()
    graph.domains[blocked.NCHWC] = 1
    graph.outputs.append(graph.emit("ReorderInput", graph.input("x", (1, 4, 1, 1)), domain=blocked.NCHWC))
    try:
        session = open_session(graph.to_onnx(), session_options())
        (image,) = session.run(None, {"x": np.zeros((1, 4, 1, 1), np.float32)})
    except Exception:  # the runtime raises several private types; without the layout Conv serves
        return 0
    channels: int = image.shape[1]
    return channels if channels > 4 else 0
