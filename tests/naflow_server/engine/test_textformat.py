"""The reader of config.pbtxt files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from naflow_server.engine.repository.textformat import TextFormatError, parse

CONFIG = """
# A configuration as written for other servers.
name: "resnet\\x35\\060" 'x'   # adjacent strings join
platform: 'onnxruntime_onnx'
max_batch_size: 8
input [
  { name: "data" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] },
  { name: "more", dims: [ -1 ] }
]
output < name: "prob"; dims: 1000 >
version_policy: { specific { versions: 1 versions: 0x10 } }
instance_group [ { count: 2; kind: KIND_CPU } ]
dynamic_batching { max_queue_delay_microseconds: 100 preserve_ordering: true }
parameters: { key: "scale" value: { string_value: "a\\tb" } }
weight: 1.5e-1 other: .5f minus: -inf
[example.org/extension] { x: 1 }
"""


def test_octal_numbers() -> None:
    assert parse("a: 010 b: -017 c: 0 d: 10 e: 0x10 f: 0.5") == {
        "a": [8],
        "b": [-15],
        "c": [0],
        "d": [10],
        "e": [16],
        "f": [0.5],
    }


def test_a_real_configuration() -> None:
    got = parse(CONFIG)
    assert got["name"] == ["resnet50x"]
    assert got["max_batch_size"] == [8]
    assert [entry["dims"] for entry in got["input"] if isinstance(entry, dict)] == [[3, 224, 224], [-1]]
    assert got["input"][0] == {"name": ["data"], "data_type": ["TYPE_FP32"], "dims": [3, 224, 224]}
    assert got["output"] == [{"name": ["prob"], "dims": [1000]}]
    assert got["version_policy"] == [{"specific": [{"versions": [1, 16]}]}]
    assert got["dynamic_batching"] == [{"max_queue_delay_microseconds": [100], "preserve_ordering": [True]}]
    assert got["parameters"] == [{"key": ["scale"], "value": [{"string_value": ["a\tb"]}]}]
    assert (got["weight"], got["other"], got["minus"]) == ([0.15], [0.5], ["-inf"])
    assert got["example.org/extension"] == [{"x": [1]}]
    assert parse("") == {}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a {", "line 1: a message lacks its }"),
        ("\n\na: [1 2", "line 3"),
        ("a", "field 'a' has no value"),
        ("a: }", "a value is missing"),
        (": 1", "a field name is missing"),
        ("a: 'x\n'", "unexpected"),
        ("a: 1 }", "a field name is missing"),
        ("a {" * 80, "nested too deeply"),
        ("[x 1", "lacks its ]"),
        (f"a: {'9' * 5000}", "line 1: a number is too long"),
    ],
)
def test_what_is_wrong_is_named(text: str, reason: str) -> None:
    with pytest.raises(TextFormatError, match=reason.replace("]", r"\]").replace("}", r"\}")):
        parse(text)


@given(st.text(alphabet='ab{}<>[]:,;#"\\\n -.01xe', max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(parse(text), dict)
    except TextFormatError as error:
        assert str(error).startswith("line ")  # noqa: PT017  either is right


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers() | st.booleans()), max_size=8))
def test_what_is_written_is_read(fields: list[tuple[str, int | bool]]) -> None:
    expected: dict[str, list[int | bool]] = {}
    for name, value in fields:
        expected.setdefault(name, []).append(value)
    text = "\n".join(f"{n}: {str(v).lower() if isinstance(v, bool) else v}" for n, v in fields)
    assert parse(text) == expected
