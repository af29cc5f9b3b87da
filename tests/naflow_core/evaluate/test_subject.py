"""What an evaluation sees of a model: scores, values and gradients on its spine."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import naflow_core as nf
from naflow_core.evaluate.differentiate import values_and_gradients
from naflow_core.evaluate.randomise import permuted
from naflow_core.evaluate.subject import Subject
from naflow_core.model.program import evaluate
from support import evaluation_network as small
from support.export_variants import channels_last
from support.onnx_graphs import make_model
from support.replicas import tensors


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject(nf.load(small.network()), batch=4)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return small.pictures(5)


def test_layers_are_the_spine_with_the_input_first(subject: Subject) -> None:
    assert tuple(layer.name for layer in subject.layers) == small.SPINE
    assert tuple(layer.name for layer in subject.layers if layer.ends_block) == small.BLOCKS
    assert subject.studied == small.BLOCKS
    assert (subject.source, subject.top, subject.classes) == ("x", "top", small.CLASSES)
    assert subject.layer("m0").shape == (4, 4, 4)
    assert subject.layer("m0").resolution == (4, 4)
    assert [layer.name for layer in subject.layers if not layer.signed] == ["r0", "m0", "r1", "top"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_scores_do_not_depend_on_how_pictures_are_batched(
    subject: Subject, x: np.ndarray, count: int
) -> None:
    np.testing.assert_allclose(
        subject.scores(x[:count]), small.slow_scores(small.network(), x[:count]), rtol=1e-4, atol=1e-5
    )


def test_probabilities_are_the_models_own_output(subject: Subject, x: np.ndarray) -> None:
    expected = np.concatenate([tensors(small.network(), row[None], ["y"])["y"] for row in x])
    np.testing.assert_allclose(subject.probabilities(x), expected, rtol=1e-4, atol=1e-6)
    many = Subject(nf.load(small.network(closing="Sigmoid")), batch=4)
    expected = np.concatenate([tensors(small.network(closing="Sigmoid"), row[None], ["y"])["y"] for row in x])
    np.testing.assert_allclose(many.probabilities(x), expected, rtol=1e-4, atol=1e-6)


def test_values_and_what_lies_behind_them(subject: Subject, x: np.ndarray) -> None:
    found = subject.tap(x, ("top", "x", "m0"))
    assert tuple(found) == ("x", "m0", "top")
    np.testing.assert_array_equal(found["x"], x)
    expected = np.concatenate([tensors(small.network(), row[None], ["m0"])["m0"] for row in x])
    np.testing.assert_allclose(found["m0"], expected, rtol=1e-4, atol=1e-6)
    for name in ("x", "m0", "top"):
        np.testing.assert_allclose(
            subject.scores_from(name, found[name]), subject.scores(x), rtol=1e-4, atol=1e-5
        )
    changed = found["m0"].copy()
    changed[:, 1] = 0
    assert np.abs(subject.scores_from("m0", changed) - subject.scores(x)).max() > 1e-3


def test_gradients_are_those_of_each_pictures_own_class(subject: Subject, x: np.ndarray) -> None:
    classes = np.array([0, 3, 1, 2, 2])
    found = subject.gradients(x, classes, ("x", "m0", "n1", "top"))
    for name, (value, slope) in found.items():
        for i in (1,) if name == "x" else (0, 1, 4):
            expected = small.slow_gradient(small.network(), x[i : i + 1], int(classes[i]), name)
            np.testing.assert_allclose(value[i], expected[0], rtol=1e-4, atol=1e-5, err_msg=name)
            np.testing.assert_allclose(slope[i], expected[1], rtol=1e-3, atol=1e-5, err_msg=name)


def test_studied_gradients_are_computed_once(
    subject: Subject, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = np.array([1, 1, 0])
    expected = subject.gradients(x[:3], classes, ("m0",))["m0"]
    calls = []
    original = Subject.gradients

    def counted(self: Subject, *given: object) -> object:
        calls.append(given)
        return original(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Subject, "gradients", counted)
    for name in small.BLOCKS:
        subject.studied_gradients(x[:3], classes, name)
    np.testing.assert_allclose(subject.studied_gradients(x[:3], classes, "m0")[1], expected[1], atol=1e-7)
    assert len(calls) == 1
    subject.studied_gradients(x[:3], classes + 1, "m0")
    subject.studied_gradients(x[1:4], classes, "m0")
    subject.studied_gradients(x[:3], classes, "x")
    assert len(calls) == 4


def test_flows_are_those_of_the_model(subject: Subject, x: np.ndarray) -> None:
    classes = np.array([0, 3, 1])
    method = nf.Method.preset("published-code")
    found = subject.flows(x[:3], classes, ("m0", "top"), method)
    assert tuple(found) == ("m0", "top")
    for i in range(3):
        one = subject.model.explain(
            x[i : i + 1], nf.ClassTarget(int(classes[i])), method=method, layers=("m0",)
        )
        np.testing.assert_allclose(found["m0"][i], next(one).map[0], rtol=1e-4, atol=1e-6)


def test_channels_last_answers_the_same(x: np.ndarray) -> None:
    turned = Subject(nf.load(channels_last(small.network())), layers="spine", batch=4)
    straight = Subject(nf.load(small.network()), batch=4)
    source = turned.layer(turned.source)
    assert source.shape == (8, 8, 3)
    assert source.resolution == (8, 8)
    moved = np.ascontiguousarray(np.moveaxis(x[:2], 1, -1))
    np.testing.assert_array_equal(source.axes.planes(moved), x[:2])
    np.testing.assert_allclose(turned.scores(moved), straight.scores(x[:2]), rtol=1e-4, atol=1e-5)
    classes = np.array([2, 0])
    value, slope = turned.gradients(moved, classes, ("m0",))["m0"]
    axes = turned.layer("m0").axes
    expected = straight.gradients(x[:2], classes, ("m0",))["m0"]
    np.testing.assert_allclose(axes.planes(value), expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(axes.planes(slope), expected[1], rtol=1e-4, atol=1e-5)


def test_randomised_from_the_head_downwards_without_a_new_program(subject: Subject, x: np.ndarray) -> None:
    assert subject.parts[0] == ("w_logits", "b_logits")
    assert set(subject.parts[-1]) == {"w_c0", "b_c0"}
    classes = np.array([0, 1])
    before = subject.tap(x, small.BLOCKS)
    clean = subject.gradients(x[:2], classes, small.BLOCKS)
    subject.scores(x)
    seen = _compilations()
    kept = {}
    for depth in range(subject.depth + 1):
        other = subject.randomised(depth, seed=3)
        assert other.studied == subject.studied
        values = other.tap(x, small.BLOCKS)
        scores = other.scores(x)
        assert (depth == 0) == np.allclose(scores, subject.scores(x), atol=1e-4)
        slope = other.gradients(x[:2], classes, small.BLOCKS)["top"][1]
        assert (depth == 0) == np.allclose(slope, clean["top"][1], atol=1e-6)
        kept[depth] = [name for name in small.BLOCKS if np.allclose(values[name], before[name])]
    assert _compilations() == seen
    assert kept == {0: [*small.BLOCKS], 1: [*small.BLOCKS], 2: ["r0", "m0", "r1"], 3: ["r0", "m0"], 4: []}
    np.testing.assert_array_equal(scores, subject.randomised(subject.depth, seed=3).scores(x))
    assert not np.allclose(scores, subject.randomised(subject.depth, seed=4).scores(x))
    assert np.isfinite(scores).all()


def test_a_randomised_weight_keeps_its_values(subject: Subject) -> None:
    before = subject.plan.program.constants
    after = subject.randomised(subject.depth).plan.program.constants
    for name in ("w_c0", "w_c1", "w_logits", "b_k1"):
        assert not np.array_equal(before[name], after[name])
        np.testing.assert_array_equal(np.sort(before[name], axis=None), np.sort(after[name], axis=None))


def test_weights_of_one_size_are_shuffled_apart() -> None:
    value = np.arange(60.0).reshape(3, 20)
    found = {name: permuted(name, value, seed=0) for name in ("a", "b")}
    assert not np.array_equal(found["a"], found["b"])
    assert not np.array_equal(found["a"], permuted("a", value, seed=1))
    np.testing.assert_array_equal(found["a"], permuted("a", value, seed=0))


def test_a_weight_of_two_blocks_belongs_to_the_upper_one() -> None:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["r"]),
        node("Conv", ["r", "w"], ["b"], pads=[1, 1, 1, 1]),
        node("Relu", ["b"], ["top"]),
        node("ReduceMean", ["top", "axes"], ["y"], keepdims=0),
    ]
    weight = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    model = make_model(nodes, {"x": ["n", 3, 6, 6]}, constants={"w": weight, "axes": np.array([2, 3])})
    assert Subject(nf.load(model), batch=1).parts == (("w",),)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(0, 1)]),
        (2, [(0, 1), (1, 1)]),
        (3, [(0, 4)]),
        (6, [(0, 4), (4, 1), (5, 1)]),
        (7, [(0, 4), (4, 4)]),
    ],
)
def test_a_rest_is_filled_up_where_that_wastes_less_than_half(
    subject: Subject, count: int, expected: list[tuple[int, int]]
) -> None:
    assert list(subject._batches(count)) == expected


def test_a_fixed_batch_is_filled_up(x: np.ndarray) -> None:
    fixed = Subject(nf.load(small.network(batch=2)))
    np.testing.assert_allclose(
        fixed.scores(x[:3]), small.slow_scores(small.network(), x[:3]), rtol=1e-4, atol=1e-5
    )
    found = fixed.flows(x[:3], np.array([0, 1, 2]), ("top",), nf.Method.preset("published-code"))
    assert found["top"].shape == (3, 4, 4)


def test_pictures_of_integers_may_be_blurred_or_noisy() -> None:
    whole = onnx.ModelProto()
    whole.CopyFrom(small.network())
    whole.graph.node[0].input[0] = "taken"
    whole.graph.node.insert(0, helper.make_node("Cast", ["x"], ["taken"], to=onnx.TensorProto.FLOAT))
    whole.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    subject = Subject(nf.load(whole), layers=("m0",), batch=1)
    x = np.random.default_rng(0).uniform(-9, 270, (1, 3, 8, 8)).astype(np.float32)
    rounded = np.clip(np.rint(x), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(subject.scores(x), subject.scores(rounded))
    value, slope = subject.gradients(rounded, np.array([1]), ("x",))["x"]
    np.testing.assert_array_equal(value, rounded)
    expected = small.slow_gradient(small.network(), rounded.astype(np.float64), 1, "x")[1]
    np.testing.assert_allclose(slope[0], expected, rtol=1e-3, atol=1e-5)


def test_refusals_name_what_is_wrong(subject: Subject, x: np.ndarray) -> None:
    with pytest.raises(nf.AnalysisError, match="'k1'"):
        subject.tap(x, ("k1",))
    with pytest.raises(nf.AnalysisError, match="no layer"):
        subject.tap(x, ())
    with pytest.raises(nf.InputError, match="shape"):
        subject.scores(x[:, :, :4])
    with pytest.raises(nf.InputError, match="'m0'"):
        subject.scores_from("m0", x)
    with pytest.raises(nf.TargetError, match="out of range"):
        subject.gradients(x[:1], np.array([4]), ("x",))
    with pytest.raises(nf.TargetError, match="5 pictures"):
        subject.gradients(x, np.array([1]), ("x",))
    with pytest.raises(nf.AnalysisError, match="depth 9"):
        subject.randomised(9)
    with pytest.raises(nf.NumericalError, match="logits"):
        subject.scores_from("top", np.full((1, 5, 4, 4), np.nan, np.float32))
    with pytest.raises(nf.InputError, match="batch size 0"):
        Subject(nf.load(small.network()), batch=0)
    with pytest.raises(nf.AnalysisError, match="'nothing'"):
        Subject(nf.load(small.network()), layers=("nothing",))


def test_models_that_cannot_be_evaluated_are_refused() -> None:
    node = helper.make_node
    inputs = {"x": ["n", 3, 8, 8], "z": ["n", 3, 8, 8]}
    pair = make_model([node("Add", ["x", "z"], ["s"]), node("Relu", ["s"], ["y"])], inputs)
    with pytest.raises(nf.InputError, match="2 inputs"):
        Subject(nf.load(pair))
    picture = make_model([node("Relu", ["x"], ["r"]), node("MaxPool", ["r"], ["y"], kernel_shape=[2, 2])],
                         {"x": ["n", 3, 8, 8]})  # fmt: skip
    with pytest.raises(nf.TargetError, match="feature map"):
        Subject(nf.load(picture))


def _compilations() -> int:
    """How many programs there are of the two functions that a subject runs."""
    return values_and_gradients._cache_size() + evaluate.programs()
