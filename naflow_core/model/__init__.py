"""From a model file to a frozen graph, and from the graph to a program."""

from naflow_core.model.graph import AttributeValue, Dimension, Graph, Node, TensorSpec
from naflow_core.model.load import LoadedModel, read_model
from naflow_core.model.source import Limits, ModelSource

__all__ = [
    "AttributeValue",
    "Dimension",
    "Graph",
    "Limits",
    "LoadedModel",
    "ModelSource",
    "Node",
    "TensorSpec",
    "read_model",
]
