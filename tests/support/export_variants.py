"""One trained network as different exporters would write it.

Every function takes a model and returns an equivalent one; `variants` lists the combinations that tests and
benchmarks go through. They work on plain image classifiers: Conv, BatchNormalization, Relu, pooling, Add,
strided Slice and Pad (shortcuts of ResNets), Reshape or Flatten, Gemm.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference, version_converter
from onnx.reference import ReferenceEvaluator
from PIL import Image, ImageOps

OLDEST = 9
OPSETS = (9, 13, 17, 21)
TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
CHANNELS_FIRST = frozenset({"Conv", "BatchNormalization", "MaxPool", "AveragePool", "GlobalAveragePool"})


class Rewriter:
    """A copy of a model whose nodes are written anew, one by one."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.nodes: list[NodeProto] = []
        self._taken = {*self.constants, *(name for node in model.graph.node for name in node.output)}

    def _name(self, wanted: str) -> str:
        name = next(f"{wanted}_{i}" for i in itertools.count(1) if f"{wanted}_{i}" not in self._taken)
        self._taken.add(name)
        return name

    def constant(self, value: np.ndarray) -> str:
        """Add a constant; its name."""
        name = self._name("constant")
        self.constants[name] = np.asarray(value)
        return name

    def new(self, op_type: str, inputs: Iterable[str], output: str = "", **attributes: object) -> str:
        """Add a node; its output's name."""
        name = output or self._name(op_type.lower())
        given = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **given))
        return name

    def readers(self, name: str) -> list[NodeProto]:
        return [node for node in self.model.graph.node if name in node.input]

    def finish(self) -> ModelProto:
        """The model with the new nodes and what they read of the constants."""
        graph = self.model.graph
        used = {name for node in self.nodes for name in node.input}
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        graph.initializer.extend(
            numpy_helper.from_array(np.array(v, order="C"), k) for k, v in self.constants.items() if k in used
        )
        onnx.checker.check_model(self.model, full_check=True)
        return self.model


def attributes(node: NodeProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def per_channel(values: np.ndarray, rank: int) -> np.ndarray:
    return values.reshape((-1,) + (1,) * (rank - 2))


def folded_constants(model: ModelProto) -> ModelProto:
    """Everything that depends on no input, computed."""
    rewriter = Rewriter(model)
    known = dict(rewriter.constants)
    for node in model.graph.node:
        if not all(name in known or not name for name in node.input):
            rewriter.nodes.append(node)
            continue
        graph = helper.make_graph([node], "g", [], [helper.make_empty_tensor_value_info(node.output[0])])
        feeds = {name: known[name] for name in node.input if name}
        graph.input.extend(
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in feeds.items()
        )
        single = helper.make_model(graph, opset_imports=model.opset_import)
        known[node.output[0]] = np.asarray(ReferenceEvaluator(single).run(None, feeds)[0])
    rewriter.constants = known
    return rewriter.finish()


def at_oldest_opset(model: ModelProto) -> ModelProto:
    """Opset 9, which the converter does not reach from newer ones."""
    rewriter = Rewriter(folded_constants(model))
    for node in rewriter.model.graph.node:
        given, inputs = attributes(node), list(node.input)
        if node.op_type == "BatchNormalization":
            given.pop("training_mode", None)
        elif node.op_type.endswith("Pool"):
            assert not given.pop("ceil_mode", 0)
        elif node.op_type == "Pad" and len(inputs) > 1:
            given["pads"] = rewriter.constants[inputs[1]].tolist()
            inputs = inputs[:1]
        elif node.op_type == "Slice" and len(inputs) > 1:
            # no steps yet: pooling with a window of one does the same
            starts, ends, axes, steps = (rewriter.constants[name].tolist() for name in inputs[1:])
            assert set(starts) == {0}
            assert min(ends) > 1 << 20
            assert min(axes) >= 2
            strides = [dict(zip(axes, steps, strict=True)).get(axis, 1) for axis in (2, 3)]
            rewriter.new("AveragePool", inputs[:1], node.output[0], kernel_shape=[1, 1], strides=strides)
            continue
        rewriter.new(node.op_type, inputs, node.output[0], **given)
    for entry in rewriter.model.opset_import:
        entry.version = OLDEST
    return rewriter.finish()


def at_opset(version: int) -> Callable[[ModelProto], ModelProto]:
    """By way of opset 9, so that the converter has to bring every node up."""

    def convert(model: ModelProto) -> ModelProto:
        oldest = at_oldest_opset(model)
        return oldest if version == OLDEST else version_converter.convert_version(oldest, version)

    return convert


def channels_last(model: ModelProto) -> ModelProto:
    """As TensorFlow's exporters write it: NHWC input, and operators that need NCHW between Transposes."""
    model = shape_inference.infer_shapes(at_opset(13)(model), data_prop=True)
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    images = {v.name for v in values if len(v.type.tensor_type.shape.dim) == 4}
    rewriter = Rewriter(model)
    for value in rewriter.model.graph.input:
        dims = [d.dim_value or None for d in value.type.tensor_type.shape.dim]
        value.CopyFrom(
            helper.make_tensor_value_info(value.name, TensorProto.FLOAT, [dims[a] for a in TO_NHWC])
        )
    for node in model.graph.node:
        inputs, given = list(node.input), attributes(node)
        if node.op_type in CHANNELS_FIRST:
            first = rewriter.new("Transpose", inputs[:1], perm=TO_NCHW)
            made = rewriter.new(node.op_type, [first, *inputs[1:]], **given)
            rewriter.new("Transpose", [made], node.output[0], perm=TO_NHWC)
            continue
        if node.op_type == "Pad":
            pads = rewriter.constants[inputs[1]].reshape(2, 4)[:, TO_NHWC]
            inputs[1] = rewriter.constant(pads.reshape(-1))
        elif set(inputs) & images:
            for i, name in enumerate(inputs):  # constants that are broadcast over an image
                if name in rewriter.constants and rewriter.constants[name].ndim == 3:
                    inputs[i] = rewriter.constant(rewriter.constants[name].transpose(1, 2, 0))
        rewriter.new(node.op_type, inputs, node.output[0], **given)
    return rewriter.finish()


def _conv_before(rewriter: Rewriter, node: NodeProto) -> NodeProto | None:
    """The convolution that only this BatchNormalization reads."""
    maker = next((n for n in rewriter.model.graph.node if node.input[0] in n.output), None)
    alone = len(rewriter.readers(node.input[0])) == 1
    return maker if maker is not None and maker.op_type == "Conv" and alone else None


def _bias(rewriter: Rewriter, conv: NodeProto) -> np.ndarray:
    if len(conv.input) > 2:
        return rewriter.constants[conv.input[2]]
    return np.zeros(rewriter.constants[conv.input[1]].shape[0], np.float32)


def batch_normalization_folded(model: ModelProto) -> ModelProto:
    """BatchNormalization multiplied into the weights of the convolution before it."""
    rewriter = Rewriter(folded_constants(model))
    pairs = {}
    for node in rewriter.model.graph.node:
        if node.op_type == "BatchNormalization":
            conv = _conv_before(rewriter, node)
            if conv is not None:
                pairs[conv.output[0]] = node
    for node in rewriter.model.graph.node:
        norm = pairs.get(node.output[0])
        if norm is not None:
            scale, shift, mean, variance = (rewriter.constants[name] for name in norm.input[1:5])
            factor = scale / np.sqrt(variance + attributes(norm).get("epsilon", 1e-5))
            kernel = rewriter.constants[node.input[1]]
            weights = rewriter.constant((kernel * factor.reshape(-1, 1, 1, 1)).astype(np.float32))
            bias = (_bias(rewriter, node) - mean) * factor + shift
            inputs = [node.input[0], weights, rewriter.constant(bias.astype(np.float32))]
            rewriter.new("Conv", inputs, norm.output[0], **attributes(node))
        elif not any(node is norm for norm in pairs.values()):
            rewriter.nodes.append(node)
    return rewriter.finish()


def batch_normalization_inserted(model: ModelProto) -> ModelProto:
    """Folded, then taken out again with other scales: e to a normal number, and a random mean."""
    folded = batch_normalization_folded(model)
    rewriter, random = Rewriter(folded), np.random.default_rng(3)
    for node in folded.graph.node:
        if node.op_type != "Conv":
            rewriter.nodes.append(node)
            continue
        kernel, bias = rewriter.constants[node.input[1]], _bias(rewriter, node)
        count, epsilon = len(bias), 1e-5
        factor = np.exp(random.normal(size=count)).astype(np.float32)
        variance = random.uniform(0.1, 2.0, count).astype(np.float32)
        mean = random.normal(size=count).astype(np.float32)
        weights = kernel / factor.reshape(-1, 1, 1, 1)
        vectors = factor * np.sqrt(variance + epsilon), bias + factor * mean, mean, variance
        made = rewriter.new("Conv", [node.input[0], rewriter.constant(weights)], **attributes(node))
        names = [rewriter.constant(v.astype(np.float32)) for v in vectors]
        rewriter.new("BatchNormalization", [made, *names], node.output[0], epsilon=epsilon)
    return rewriter.finish()


def separate_bias(model: ModelProto) -> ModelProto:
    """Folded; Conv + bias as Conv and Add, Gemm as MatMul and Add."""
    folded = batch_normalization_folded(model)
    rewriter = Rewriter(folded)
    for node in folded.graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            made = rewriter.new("Conv", node.input[:2], **attributes(node))
            bias = per_channel(rewriter.constants[node.input[2]], 4)
            rewriter.new("Add", [made, rewriter.constant(bias)], node.output[0])
        elif node.op_type == "Gemm":
            weights = rewriter.constants[node.input[1]]
            weights = weights.T if attributes(node).get("transB") else weights
            made = rewriter.new("MatMul", [node.input[0], rewriter.constant(weights)])
            rewriter.new("Add", [made, node.input[2]], node.output[0])
        else:
            rewriter.nodes.append(node)
    return rewriter.finish()


def other_spellings(relu: str) -> Callable[[ModelProto], ModelProto]:
    """Relu as Clip or Max, global pooling as ReduceMean."""

    def convert(model: ModelProto) -> ModelProto:
        model = at_opset(13)(model)
        rewriter = Rewriter(model)
        inferred = shape_inference.infer_shapes(model, data_prop=True)
        sizes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inferred.graph.value_info
        }
        for node in model.graph.node:
            whole = attributes(node).get("kernel_shape") == sizes.get(next(iter(node.input), ""), [])[2:]
            if node.op_type == "Relu":
                rewriter.new(relu, [node.input[0], rewriter.constant(np.float32(0))], node.output[0])
            elif node.op_type == "GlobalAveragePool" or (node.op_type == "AveragePool" and whole):
                rewriter.new("ReduceMean", node.input, node.output[0], axes=[2, 3], keepdims=1)
            else:
                rewriter.nodes.append(node)
        return rewriter.finish()

    return convert


def half_precision(model: ModelProto) -> ModelProto:
    """Weights and activations in float16; input and output stay float32."""
    rewriter = Rewriter(folded_constants(model))
    floats = {k: v.astype(np.float16) for k, v in rewriter.constants.items() if v.dtype == np.float32}
    rewriter.constants.update(floats)
    renamed = {}
    for value in rewriter.model.graph.input:
        renamed[value.name] = rewriter.new("Cast", [value.name], to=TensorProto.FLOAT16)
    outputs = {value.name: f"{value.name}_half" for value in rewriter.model.graph.output}
    for node in rewriter.model.graph.node:
        written = NodeProto()
        written.CopyFrom(node)
        written.input[:] = [renamed.get(name, name) for name in node.input]
        written.output[:] = [outputs.get(name, name) for name in node.output]
        rewriter.nodes.append(written)
    for name, half in outputs.items():
        rewriter.new("Cast", [half], name, to=TensorProto.FLOAT)
    return rewriter.finish()


def optimised(model: ModelProto) -> ModelProto:
    """What onnxruntime's optimiser saves at level "extended": fused nodes of its own."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


def chain(*functions: Callable[[ModelProto], ModelProto]) -> Callable[[ModelProto], ModelProto]:
    def run(model: ModelProto) -> ModelProto:
        for function in functions:
            model = function(model)
        return model

    return run


VARIANTS: dict[str, Callable[[ModelProto], ModelProto]] = {
    **{f"opset {version}": at_opset(version) for version in OPSETS},
    "NHWC": channels_last,
    "BN folded": batch_normalization_folded,
    "BN with other scales": batch_normalization_inserted,
    "Conv, Add; MatMul, Add": separate_bias,
    "Relu as Clip, ReduceMean": other_spellings("Clip"),
    "Relu as Max, ReduceMean": other_spellings("Max"),
    "float16": half_precision,
    "onnxruntime extended": optimised,
    "BN folded, NHWC": chain(batch_normalization_folded, channels_last),
    "BN folded, float16, opset 9": chain(at_opset(9), batch_normalization_folded, half_precision),
}


def variants(model: ModelProto, names: Iterable[str] = tuple(VARIANTS)) -> Iterator[tuple[str, ModelProto]]:
    """(name, equivalent model) in the order of `names`."""
    for name in names:
        yield name, VARIANTS[name](model)


def is_channels_last(name: str) -> bool:
    """Whether a variant takes its pictures as NHWC."""
    return "NHWC" in name


def cifar_pictures(folder: Path, count: int) -> np.ndarray:
    """The first photographs of a folder, cut square and shrunk: [count, 3, 32, 32], normalised."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".jpeg", ".png")]
    arrays = []
    for path in paths[:count]:
        with Image.open(path) as picture:
            small = ImageOps.fit(picture.convert("RGB"), (32, 32), Image.Resampling.BICUBIC)
        values = (np.asarray(small, np.float32) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        arrays.append(values.transpose(2, 0, 1))
    return np.stack(arrays).astype(np.float32)


def pearson(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[N] correlation of each map with its counterpart; 1 where both are constant."""
    a, b = (np.asarray(m, np.float64).reshape(len(m), -1) for m in (maps, others))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norms = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    same = (a == b).all(1)
    return np.where(norms > 0, (a * b).sum(1) / np.where(norms > 0, norms, 1), same.astype(float))
