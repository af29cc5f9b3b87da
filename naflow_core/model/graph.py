"""The frozen graph that everything above the loader works on: no protobuf from here on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Dimension = int | str | None


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output as declared: ONNX element type name ("float", "uint8") and shape.

    A dimension is an int, a symbolic name, or None where nothing is declared.
    `shape` is None when even the rank is not declared.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None


@dataclass(frozen=True, slots=True)
class Node:
    """One ONNX node. `name` is unique in its graph (made up from the output where the file gives none);
    absent optional inputs and outputs are ""; `version` is the opset version of its domain."""

    name: str
    op_type: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Body:
    """The graph in an attribute of If, Loop or Scan; its nodes may also read tensors from around it.

    `version` is the ai.onnx opset version; nodes keep the names of the file, which may be empty.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, np.ndarray]
    version: int


AttributeValue = int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...] | np.ndarray | Body


@dataclass(frozen=True, slots=True)
class Graph:
    """A checked model: nodes in topological order, weights as numpy arrays (float32 where the file had
    float16, bfloat16 or float64).

    Attributes:
        inputs: what the caller feeds (initializers that are also listed as inputs are left out).
        constants: initializers by tensor name.
        opsets: opset version by domain ("" is ai.onnx), after normalisation.
        original_opsets: the same as the file declared them.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    constants: Mapping[str, np.ndarray]
    opsets: Mapping[str, int]
    original_opsets: Mapping[str, int]
    ir_version: int
    producer: str
