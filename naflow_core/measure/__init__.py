"""What explanations cost: timings side by side, compilations, memory, the first one in a new process.

Everything that is compared runs by turns in one process, so that whatever else the machine does meets all of
it alike. Times are seconds of wall clock. `import naflow_core` leaves this package out.
"""

from naflow_core.measure.cascade import Run, Subject, compare, noise
from naflow_core.measure.compilations import Compilations
from naflow_core.measure.fresh import first_explanations
from naflow_core.measure.machine import cores, machine, peak_memory
from naflow_core.measure.turns import by_turns, jax_forward_backward, onnxruntime_forward

__all__ = [
    "Compilations",
    "Run",
    "Subject",
    "by_turns",
    "compare",
    "cores",
    "first_explanations",
    "jax_forward_backward",
    "machine",
    "noise",
    "onnxruntime_forward",
    "peak_memory",
]
