"""What a user of `import naflow_core as nf` relies on."""

from __future__ import annotations

import gc
import inspect
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import naflow_core as nf
from naflow_core import cascade, errors
from naflow_core.flow import Flow
from support import custom_operator
from support.blocks import Net
from support.onnx_graphs import make_model

DEMO = Path(__file__).resolve().parents[2] / "examples" / "digits_in_clutter" / "digits_in_clutter.onnx"
STATUS = Path("/proc/self/status")


def small_model(
    *middle: onnx.NodeProto, after: str = "a", opsets: dict[str, int] | None = None
) -> onnx.ModelProto:
    """Conv, `middle` (from "a" to `after`), Conv, Relu, average, Gemm: 4 classes of [N, 2, 8, 8]."""
    rng = np.random.default_rng(7)
    constants = {
        "w1": rng.normal(size=(3, 2, 3, 3)).astype(np.float32),
        "w2": rng.normal(size=(5, 3, 3, 3)).astype(np.float32),
        "w3": rng.normal(size=(5, 4)).astype(np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1]),
        *middle,
        node("Conv", [after, "w2"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["top"]),
        node("GlobalAveragePool", ["top"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Gemm", ["flat", "w3"], ["y"]),
    ]
    return make_model(nodes, {"x": ["N", 2, 8, 8]}, constants=constants, extra_opsets=opsets)


@pytest.fixture(scope="module")
def model() -> nf.Model:
    return nf.load(small_model(helper.make_node("Relu", ["a"], ["b"]), after="b"))


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(np.float32)


def test_flows_come_deepest_first(model: nf.Model, x: np.ndarray) -> None:
    flows = list(model.explain(x, target=nf.ClassTarget(1), layers="spine"))
    assert [flow.tensor for flow in flows] == ["top", "c", "b", "a", "x"]
    assert [flow.index for flow in flows] == [4, 3, 2, 1, 0]
    for flow in flows:
        assert isinstance(flow, nf.Flow)
        assert isinstance(flow.diagnostics, nf.LayerDiagnostics)
        assert flow.map.dtype == np.float32
        assert flow.map.shape == (2, 8, 8)
        assert flow.diagnostics.retained_fraction.shape == (2,)


def test_flows_are_computed_when_asked_for(
    model: nf.Model, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    original = cascade.step

    def counted(plan: object, segment: object, *rest: object) -> object:
        steps.append(segment.source)  # type: ignore[attr-defined]
        return original(plan, segment, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cascade, "step", counted)
    explanation = model.explain(x, layers="spine")
    assert explanation.prediction.scores.shape == (2, 4)
    assert steps == []
    assert next(explanation).tensor == "top"
    assert steps == []
    assert next(explanation).tensor == "c"
    assert steps == ["c"]
    list(explanation)
    assert steps == ["c", "b", "a", "x"]


def test_nothing_below_the_last_layer_is_computed(
    model: nf.Model, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a step below the wanted layer")

    monkeypatch.setattr(cascade, "step", never)
    assert [flow.tensor for flow in model.explain(x, layers="top")] == ["top"]


def test_collect_sorts_and_saves(model: nf.Model, x: np.ndarray, tmp_path: Path) -> None:
    result = model.explain(x, layers=["top", "b"]).collect()
    assert isinstance(result, nf.Result)
    assert [(flow.index, flow.tensor) for flow in result.flows] == [(0, "b"), (1, "top")]
    result.save(tmp_path / "flows.npz")
    with np.load(tmp_path / "flows.npz") as saved:
        assert saved.files == ["000:b", "001:top"]
        np.testing.assert_array_equal(saved["001:top"], result.flows[1].map)


def test_collect_takes_what_is_left(model: nf.Model, x: np.ndarray) -> None:
    explanation = model.explain(x, layers="spine")
    next(explanation)
    assert [flow.tensor for flow in explanation.collect().flows] == ["x", "a", "b", "c"]


def test_path_bytes_and_proto_give_the_same(x: np.ndarray, tmp_path: Path) -> None:
    proto = small_model(helper.make_node("Relu", ["a"], ["b"]), after="b")
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    maps = [next(nf.load(source).explain(x)).map for source in (path, str(path), path.read_bytes(), proto)]
    for other in maps[1:]:
        np.testing.assert_array_equal(other, maps[0])


def test_top_target_is_each_picture_s_own(model: nf.Model, x: np.ndarray) -> None:
    both = model.explain(x)
    assert both.prediction.target.tolist() == both.prediction.logits.argmax(axis=1).tolist()
    one = model.explain(x[1:], nf.ClassTarget(int(both.prediction.target[1])))
    np.testing.assert_allclose(next(both).map[1], next(one).map[0], rtol=1e-5, atol=1e-6)


def test_every_public_exception_derives_from_naflow_error() -> None:
    every = {name: getattr(nf, name) for name in nf.__all__}  # vars(nf) has only those asked for so far
    public = {name: value for name, value in every.items() if isinstance(value, type)}
    kinds = {name for name, value in public.items() if issubclass(value, Exception)} - {"Refusal"}
    assert kinds >= {"ModelError", "UnsupportedOperatorError", "InputError", "TargetError", "OptionError"}
    for name in kinds:
        assert issubclass(public[name], nf.NaflowError), name
    defined = {
        name for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
    }  # fmt: skip
    assert defined <= set(nf.__all__)
    assert issubclass(nf.UnsupportedOperatorError, nf.ModelError)


def test_every_name_in_all_exists_and_is_documented() -> None:
    for name in nf.__all__:
        value = getattr(nf, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert (value.__doc__ or "").strip(), name


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda m, x: m.explain(x[:, :1]), nf.InputError),
        (lambda m, x: m.explain(x.astype(int)), nf.InputError),
        (lambda m, x: m.explain({"x": x, "z": x}), nf.InputError),
        (lambda m, x: m.explain(np.full_like(x, np.inf)), nf.InputError),
        (lambda m, x: m.explain(x, nf.ClassTarget(4)), nf.TargetError),
        (lambda m, x: m.explain(x, nf.ClassTarget("cat")), nf.TargetError),
        (lambda m, x: m.explain(x, layers="nowhere"), nf.AnalysisError),
        (lambda m, x: m.explain(x, output="nowhere"), nf.AnalysisError),
        (lambda m, x: m.explain(x, batch_size=0), nf.InputError),
        (lambda m, x: m.embed(x, batch_size=-1), nf.InputError),
        (lambda m, x: m.inspect(input_shapes={"nowhere": (1, 2, 8, 8)}), nf.InputError),
        (lambda m, x: m.verify(input_shapes={"self": (1, 2, 8, 8)}), nf.InputError),
        (lambda m, x: nf.Method(rows="few"), nf.OptionError),
        (lambda m, x: nf.load(b"no model"), nf.ModelError),
        (lambda m, x: nf.load("missing.onnx"), nf.ModelError),
    ],
)
def test_bad_arguments_are_refused_at_once(call: object, kind: type, model: nf.Model, x: np.ndarray) -> None:
    with pytest.raises(kind) as caught:
        call(model, x)  # type: ignore[operator]
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert caught.value.code != nf.NaflowError.code


def custom_model() -> onnx.ModelProto:
    node = helper.make_node("SignedSquare", ["a"], ["s"], domain=custom_operator.DOMAIN, gain=0.5)
    return small_model(node, after="s", opsets={custom_operator.DOMAIN: 1})


def test_operator_from_a_user_s_module(x: np.ndarray) -> None:
    model = nf.load(custom_model())
    report = model.inspect().to_dict()
    assert report["explainable"]
    entry = next(node for node in report["nodes"] if node["op_type"] == "SignedSquare")
    assert (entry["rule"], entry["class"], entry["supported"]) == ("signed-root", "exact", True)
    flows = {flow.tensor: flow for flow in model.explain(x, nf.ClassTarget(2), layers="spine")}
    assert flows["a"].diagnostics.rule == "signed-root"
    assert flows["a"].diagnostics.iterations.tolist() == [0, 0]
    assert all(np.isfinite(flow.map).all() for flow in flows.values())


def test_the_rule_registered_last_is_what_runs(x: np.ndarray) -> None:
    @nf.inverse.register("SignedSquare", domain=custom_operator.DOMAIN, name="nothing")
    def nothing(y: Any, _site: nf.inverse.Site) -> Any:
        return 0 * y

    try:
        flows = {flow.tensor: flow for flow in nf.load(custom_model()).explain(x, layers=["s", "a"])}
    finally:
        nf.inverse.REGISTRY.unregister("SignedSquare", "nothing", domain=custom_operator.DOMAIN)
    assert flows["s"].map.max() > 0
    assert flows["a"].diagnostics.rule == "nothing"
    assert flows["a"].map.max() == 0


def test_unknown_operator_is_named(x: np.ndarray) -> None:
    node = helper.make_node("Unheard", ["a"], ["s"], name="odd", domain=custom_operator.DOMAIN)
    model = nf.load(small_model(node, after="s", opsets={custom_operator.DOMAIN: 1}))
    with pytest.raises(nf.UnsupportedOperatorError, match="'odd' \\(Unheard\\)") as caught:
        model.explain(x)
    assert [entry.node for entry in caught.value.nodes] == ["odd"]


def test_registering_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="already registered"):
        nf.ops.register("SignedSquare", domain=custom_operator.DOMAIN, since=1)(custom_operator.signed_square)
    with pytest.raises(ValueError, match="already has an inverse rule"):
        nf.inverse.register("SignedSquare", domain=custom_operator.DOMAIN, name="signed-root")(
            custom_operator.signed_root
        )


def test_one_model_from_several_threads(x: np.ndarray) -> None:
    model = nf.load(small_model(helper.make_node("Relu", ["a"], ["b"]), after="b"))
    inputs = [x * scale for scale in (0.5, 1.0, 1.5, 2.0)]
    found: dict[int, list[Flow]] = {}
    failures: list[BaseException] = []
    gate = threading.Barrier(len(inputs))

    def explain(place: int) -> None:
        try:
            gate.wait(timeout=60)
            for _ in range(5):
                found[place] = list(model.explain(inputs[place][: 1 + place % 2], layers="spine"))
        except BaseException as error:  # noqa: BLE001 - reported in the main thread
            failures.append(error)

    threads = [threading.Thread(target=explain, args=(place,)) for place in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert failures == []
    for place, array in enumerate(inputs):
        expected = list(model.explain(array[: 1 + place % 2], layers="spine"))
        assert [flow.tensor for flow in found[place]] == [flow.tensor for flow in expected]
        for mine, theirs in zip(found[place], expected, strict=True):
            np.testing.assert_array_equal(mine.map, theirs.map)


def resident_bytes() -> int:
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(sys.platform != "linux" or not STATUS.exists(), reason="reads /proc/self/status")
def test_memory_does_not_grow() -> None:
    """60 explanations of the demo network in one process, after a warm-up: less than 20 MB more."""
    rng = np.random.default_rng(0)
    model = nf.load(DEMO)

    def explain(times: int) -> None:
        for _ in range(times):
            model.explain(
                rng.random((1, 1, 64, 64), np.float32), layers=["deepen_relu", "top_relu"]
            ).collect()

    explain(20)
    gc.collect()
    before = resident_bytes()
    began = time.perf_counter()
    explain(60)
    gc.collect()
    grown = (resident_bytes() - before) / 1e6
    assert grown < 20, f"{grown:.1f} MB more after 60 explanations in {time.perf_counter() - began:.0f} s"


def test_an_unsupported_operator_is_named_in_under_a_second() -> None:
    """Loading and inspecting alone, of a network as deep as ResNet-152; and the line that registers it."""
    net, last = Net(), "x"
    for i in range(150):
        last = net.add("Relu", [net.conv(last, f"c{i}", 3 if i == 0 else 4, 4)], f"r{i}")
        if i % 2:
            last = net.add("Add", [last, f"r{i - 1}"], f"a{i}")
        if i == 75:
            net.nodes.append(
                helper.make_node("Whirl", [last], ["w"], name="odd", domain="com.example", turns=2)
            )
            last = "w"
    net.dense(net.add("Flatten", [last], "f"), "y", 4 * 25, 3)
    content = make_model(
        net.nodes, {"x": (1, 3, 5, 5)}, constants=net.constants, extra_opsets={"com.example": 1}
    ).SerializeToString()
    times = []
    for _ in range(3):  # the best of three: other processes may be at work
        begun = time.perf_counter()
        report = nf.load(content).inspect()
        facts = report.to_dict()
        times.append(time.perf_counter() - begun)
    (unsupported,) = facts["unsupported"]
    assert (unsupported["node"], unsupported["op_type"]) == ("odd", "Whirl")
    assert '@nf.ops.register("Whirl", domain="com.example", since=1)' in unsupported["reason"]
    assert not report.explainable
    assert min(times) < 1.0
    # the line does what it says
    line = unsupported["reason"].partition("; ")[2].partition(" would")[0]
    try:
        exec(f"import naflow_core as nf\n{line}\ndef whirl(x, *, turns): return x", {})
        assert nf.load(content).inspect().explainable
    finally:
        nf.ops.REGISTRY.unregister("Whirl", since=1, domain="com.example")


def test_a_cpu_takes_as_many_pictures_at_once_as_its_cache_holds(
    model: nf.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of one size, so that one program does; what is asked for is done."""
    x = np.random.default_rng(4).random((6, *next(iter(model.default_shapes().values()))[1:]), np.float32)
    shapes = model.program({model.inputs[0].name: (1, *x.shape[1:])}).shapes
    largest = 4 * max(int(np.prod(shape)) for shape in shapes.values())

    def batches(**options: int) -> list[int]:
        return [chunk.count for chunk in model.explain(x, **options)._chunks]

    for fitting, expected in ((0.5, [1] * 6), (2.5, [2] * 3), (5.5, [3] * 2), (100, [6])):
        monkeypatch.setattr("naflow_core.explainer.CACHE_BYTES", int(fitting * largest))
        assert batches() == expected
        assert batches(batch_size=4) == [4, 2]


def test_a_shorter_last_batch_is_planned_once(model: nf.Model) -> None:
    x = np.random.default_rng(4).random((3, *next(iter(model.default_shapes().values()))[1:]), np.float32)
    first, again = ([chunk.plan for chunk in model.explain(x, batch_size=2)._chunks] for _ in range(2))
    assert [plan.program.pictures for plan in first] == [2, 1]
    assert all(a is b for a, b in zip(first, again, strict=True))
