"""Operators that are known and cannot be done, with the reason that the user is told."""

from __future__ import annotations

from naflow_core.ops.registry import REGISTRY

_RANDOM = "it draws random numbers, so that the model has no one output; export it for inference"
_BLOCKED = (
    "it has the memory layout of one kind of processor; save the model at optimisation level 'extended'"
    " instead of 'all'"
)

for _name in (
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
):
    REGISTRY.refuse(_name, _RANDOM)
for _name in (
    "AveragePool",
    "Conv",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "MaxPool",
    "ReorderInput",
    "ReorderOutput",
    "Upsample",
):
    REGISTRY.refuse(_name, _BLOCKED, domain="com.microsoft.nchwc")
