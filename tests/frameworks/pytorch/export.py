"""Export every network with one of PyTorch's two exporters.

    python tests/frameworks/pytorch/export.py torchscript FOLDER [NAME...]
    python tests/frameworks/pytorch/export.py dynamo FOLDER [NAME...]

Needs torch, onnx and onnxscript, and not naflow.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from frameworks.pytorch import branches, mobile, residual, shapes

PICTURE = ((3, 32, 32),)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...]]] = {
    "residual": (residual.residual, PICTURE),
    "bottleneck": (residual.bottlenecks, PICTURE),
    "pre_activation": (residual.pre_activation, PICTURE),
    "regnet": (residual.regnet, PICTURE),
    "depthwise_separable": (mobile.depthwise_separable, PICTURE),
    "inverted_residual": (mobile.inverted_residual, PICTURE),
    "efficientnet": (mobile.efficientnet, PICTURE),
    "mobilenet_v3": (mobile.mobilenet_v3, PICTURE),
    "mobilenet_v4": (mobile.mobilenet_v4, PICTURE),
    "channel_shuffle": (mobile.channel_shuffle, PICTURE),
    "ghost": (mobile.ghost, PICTURE),
    "inception": (branches.inception, PICTURE),
    "dense": (branches.dense, PICTURE),
    "split_attention": (branches.split_attention, PICTURE),
    "nasnet": (branches.nasnet, PICTURE),
    "convnext": (branches.convnext, PICTURE),
    "unet": (shapes.unet, PICTURE),
    "siamese": (shapes.siamese, ((1, 32, 32), (1, 32, 32))),
    "two_inputs": (shapes.two_inputs, ((3, 32, 32), (5,))),
    "two_outputs": (shapes.two_outputs, PICTURE),
    "class_map": (shapes.class_map, PICTURE),
    "signal": (shapes.signal, ((2, 256),)),
    "volume": (shapes.volume, ((1, 12, 16, 20),)),
}


def make(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """The network with seeded weights and settled running statistics, in evaluation mode, and an input."""
    build, sizes = NETWORKS[name]
    torch.manual_seed(sorted(NETWORKS).index(name))
    network = build().train()
    with torch.no_grad():
        for _ in range(20):
            network(*(torch.randn(8, *size) for size in sizes))
    return network.eval(), tuple(torch.randn(2, *size) for size in sizes)


def export(exporter: str, name: str, path: Path) -> None:
    """Write one file; the size of the batch is left open."""
    network, inputs = make(name)
    names = [f"input_{i}" for i in range(len(inputs))]
    if exporter == "torchscript":
        torch.onnx.export(
            network, inputs, path, dynamo=False, opset_version=17, input_names=names,
            dynamic_axes={name: {0: "batch"} for name in names},
        )  # fmt: skip
    else:
        batch = torch.export.Dim("batch")
        torch.onnx.export(
            network, inputs, path, dynamo=True, input_names=names, external_data=False,
            dynamic_shapes=tuple({0: batch} for _ in inputs), verbose=False,
        )  # fmt: skip


def main(exporter: str, folder: str, *names: str) -> None:
    """Write the named networks, or all."""
    warnings.simplefilter("ignore")  # both exporters announce what they deprecate
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names or NETWORKS:
        export(exporter, name, Path(folder) / f"{name}.onnx")


if __name__ == "__main__":
    main(*sys.argv[1:])
