"""Subjects that take turns, and the two that every explanation is compared with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

from naflow_core.analysis.plan import Plan
from naflow_core.errors import ModelError
from naflow_core.explainer import Model
from naflow_core.measure.machine import cores

ENOUGH = 0.1
"""Seconds that one turn of a quick subject is repeated for."""
MOST = 25
"""Repetitions in one turn, at most."""


def by_turns(subjects: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each subject in each of `repeats` rounds, after one round that is not counted.

    Every round begins with another subject. A quick subject runs several times in its turn, of which the
    median counts: it is not charged for the caches that its neighbours have emptied.
    """
    names = list(subjects)
    found: dict[str, list[float]] = {name: [] for name in names}
    for subject in subjects.values():
        subject()
    for number in range(repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(_one_turn(subjects[name]))
    return found


def _one_turn(subject: Callable[[], object]) -> float:
    taken: list[float] = []
    while not taken or (sum(taken) < ENOUGH and len(taken) < MOST):
        began = time.perf_counter()
        subject()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def onnxruntime_forward(model: Model, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
    """One forward pass in onnxruntime on the CPU, all optimisations on, weights as initializers.

    Raises:
        ModelError: onnxruntime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 4
    # its threads would go on spinning after a run, on the cores that the next subject needs
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(
            model.loaded.serialized_with_outputs(()), options, providers=["CPUExecutionProvider"]
        )
        session.run(None, dict(feeds))
    except Exception as error:  # onnxruntime has no common base for its errors
        if isinstance(error, ModelError):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{model.loaded.source.name}: onnxruntime cannot run the model: {first}") from error
    return lambda: session.run(None, dict(feeds))


def jax_forward_backward(plan: Plan, feeds: Mapping[str, np.ndarray]) -> Callable[[], object]:
    """A logit and its gradient at the explained input, as one compiled program with weights as arguments."""
    values = {name: _on_device(value) for name, value in feeds.items()}
    subprogram, names = plan.program.extract(plan.source, (plan.head.scores,), whole=True)
    operands = plan.program.operands(names, values)

    @jax.jit
    def both(x: Any, operands: tuple[Any, ...]) -> tuple[Any, Any]:
        def score(x: Any) -> Any:
            (scores,) = subprogram(x, operands)
            return jnp.sum(scores.reshape(scores.shape[0], -1)[:, 0])

        return jax.value_and_grad(score)(x)

    return lambda: jax.block_until_ready(both(values[plan.source], operands))


def _on_device(value: np.ndarray) -> Any:
    """As programs take it. This package leans on little of the core: it measures older ones too."""
    small = value.dtype.kind in "iu" and value.dtype.itemsize < 4
    return jnp.asarray(value.astype(np.float32) if small else value)
