"""Functions that XLA compiles, on CPUs in half the time where what comes out is as fast or faster."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax

QUICK = {
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}
"""The older of XLA's two ways to write loops for a CPU, and YNNPACK for sums only, not for matrix products.

The older way takes half the time to compile; convolutions and matrix products are library calls either way,
but sums of shifted maps take up to twice as long to run. Products of convolutions are mostly faster by Eigen.
"""


class Compiled:
    """A function of static and traced arguments as `jax.jit` gives it, compiled quickly on CPUs where it may.

    For calls from Python: within another compiled function call `traced`.

    Attributes:
        static: number of its static arguments, which come first.
        traced: `jax.jit` of the function, without any options.
        quick: the same, compiled quickly.
    """

    def __init__(self, function: Callable[..., Any], *, static: int, quickly: Callable[..., bool]) -> None:
        """
        Args:
            static: number of its static arguments, which come first.
            quickly: whether a program may be compiled quickly, by its static arguments.
        """
        functools.update_wrapper(self, function)
        self.static, self._quickly = static, quickly
        numbers = tuple(range(static))
        self.traced: Any = jax.jit(function, static_argnums=numbers)
        self.quick: Any = jax.jit(function, static_argnums=numbers, compiler_options=QUICK)

    def __call__(self, *arguments: Any) -> Any:
        return self._program(*arguments)(*arguments)

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """As of what `jax.jit` gives."""
        return self._program(*arguments).lower(*arguments)

    def is_quick(self, *arguments: Any) -> bool:
        """Whether the program for these arguments is compiled quickly."""
        return jax.default_backend() == "cpu" and self._quickly(*arguments[: self.static]) and is_known()

    def _program(self, *arguments: Any) -> Any:
        return self.quick if self.is_quick(*arguments) else self.traced

    def programs(self) -> int:
        """How many there are, for other static arguments or shapes."""
        return sum(function._cache_size() for function in (self.traced, self.quick))


def is_known() -> bool:
    """Whether this version of XLA has these options."""
    with _asking:
        return _answer()


_asking = threading.Lock()


@functools.cache
def _answer() -> bool:
    try:
        jax.jit(lambda: 0, compiler_options=QUICK).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
