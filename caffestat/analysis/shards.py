"""Into how many shards a pass divides its batch."""

from __future__ import annotations

import math

from caffestat.cores import core_count
from caffestat.engine.runtime import thread_count
from caffestat.program import Program

__all__ = ["shards_for"]

# What was measured, two cores: up to so many there is a shard for each.
_CORES = 2

# From so many elements of all values on a pass takes so long that threads pay.
_LEAST = 4_000_000

# At least so many elements of values for each param: all shards write a gradient of all params, and these are added up.
# Two shards take 0.73 of the time of GoogLeNet (8 per param), 0.73 of SqueezeNet (100) and 0.88 of cifar10_full (100)
# on cores that share no cache, and 0.89 to 0.98 on those that do; AlexNet (0.5) 0.95 and 1.09, VGG-16 (0.4) 1.07.
_PER_PARAM = 4


def shards_for(program: Program) -> int:
    """Return into how many shards, one per core, a pass on the CPU divides a batch: 1 where it is as fast whole."""
    cores = thread_count() or core_count()
    values = sum(math.prod(shape) for row in program.rows for shape in row.shapes if shape)
    params = sum(math.prod(param.shape) for param in program.params if param.owner is None)
    return cores if cores <= _CORES and values >= max(_LEAST, _PER_PARAM * params) else 1
