"""The table of operators in the documentation, and the list that `naflow inspect` answers early from.

    python docs/make_operators.py            run ONNX's backend test suite and write docs/operators.md
    python docs/make_operators.py --list     only write the list
    python docs/make_operators.py --check    only tell whether list and page, but for its counts, are right

Needs an installed naflow and nothing else; the suite takes some minutes on one core.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import defs

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from naflow_core import inverse  # noqa: E402
from naflow_core.model.catalogue import LIST  # noqa: E402
from naflow_core.model.convert import NEWEST_OPSET, OLDEST_OPSET  # noqa: E402
from naflow_core.model.rewrite import REMOVED  # noqa: E402
from naflow_core.model.unfold import UNFOLDED  # noqa: E402
from naflow_core.model.unfuse import FUSED  # noqa: E402
from naflow_core.ops import REGISTRY  # noqa: E402
from naflow_core.ops.registry import Operator  # noqa: E402
from support.conformance import outside, release_programs, run_case  # noqa: E402
from support.conformance_cases import ConformanceCase, grouped_cases  # noqa: E402
from support.conformance_exclusions import EXCLUDED  # noqa: E402

PAGE = ROOT / "docs" / "operators.md"
ONNX = "ai.onnx"

EXPECTED = re.findall(
    r"\w+",
    """
    Conv ConvTranspose MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool
    MaxUnpool Resize Upsample Pad BatchNormalization InstanceNormalization GroupNormalization
    LayerNormalization RMSNormalization LRN LpNormalization MeanVarianceNormalization Relu LeakyRelu
    PRelu Elu Selu Celu Gelu Sigmoid HardSigmoid HardSwish Swish Mish Tanh Softplus Softsign
    ThresholdedRelu Shrink Erf Gemm MatMul Einsum Add Sub Mul Div Pow Min Max Sum Mean Neg Abs Sqrt
    Exp Log Reciprocal Floor Ceil Round ReduceMean ReduceMax ReduceMin ReduceSum ReduceProd ReduceL1
    ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp Softmax LogSoftmax Hardmax Concat Split
    Slice Gather GatherElements GatherND ScatterND ScatterElements Tile Expand Where Clip Cast Shape
    Size ConstantOfShape Range NonZero Loop If Scan TopK ArgMax ArgMin OneHot DepthToSpace
    SpaceToDepth QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul
    ConvInteger GridSample RoiAlign Reshape Flatten Squeeze Unsqueeze Transpose Identity Dropout
    Constant
    """,
)
"""What networks for pictures, signals and volumes are made of."""


@dataclass(frozen=True)
class Counts:
    """How many cases pass, by group of `grouped_cases`, and with which version of onnx."""

    onnx: str
    passed: Mapping[str, int]


def run_suite() -> Counts:
    """Run everything."""
    warnings.filterwarnings("ignore", "overflow encountered in cast")  # float64 cases on their way to float32
    passed = {}
    for number, (group, cases) in enumerate(grouped_cases().items()):
        passed[group] = sum(run_case(case).status == "passed" for case in cases)
        if number % 20 == 19:
            release_programs()
    return Counts(onnx.__version__, passed)


_ROW = re.compile(r"^\| (?:`?)([\w.:\- ]+?)`? \|.*?\| (?:(\d+)/\d+|–) \| (?:(\d+)/\d+)? *\|$", re.MULTILINE)
_SUITE = re.compile(r"^\| ([\w.:\-]+) \| (\d+)/\d+ \|$", re.MULTILINE)


def read_counts(text: str) -> Counts:
    """The numbers that a written page holds."""
    version = re.search(r"onnx (\S+?)[,:]? ", text)
    passed = {name: int(number) for name, number in _SUITE.findall(text)}
    for name, own, expanded in _ROW.findall(text):
        passed[name] = int(own or 0)
        if expanded:
            passed[f"{name}-expanded"] = int(expanded)
    return Counts(version[1] if version else "", passed)


def render(counts: Counts) -> str:
    """The page."""
    groups = grouped_cases()
    handled = {name for domain, name, _ in REGISTRY.names() if not domain}
    converted = sorted(
        name for name in groups if name not in handled and counts.passed.get(name) and _is_operator(name)
    )
    shown = {*handled, *converted}
    bodies = [
        name
        for name in groups
        if name.endswith("-expanded") and counts.passed.get(name) and name[:-9] not in shown
    ]
    rows = [_row(name, groups, counts) for name in sorted(shown)]
    suites = [name for name, cases in groups.items() if not cases[0].operator]
    lacking = sorted(
        name for name in groups if _is_operator(name) and name not in handled and name not in converted
    )
    return _TEMPLATE.format(
        oldest=OLDEST_OPSET,
        newest=NEWEST_OPSET,
        onnx=counts.onnx,
        rows="\n".join(rows),
        suites="\n".join(f"| {name} | {_fraction(name, groups, counts)} |" for name in suites),
        bodies="\n".join(f"| {name} | {_fraction(name, groups, counts)} |" for name in bodies),
        share=_share(groups, counts),
        excluded="\n".join(f"* {reason}: {_listed(names)}." for reason, names in _by_reason().items()),
        odd="\n".join(f"| {reason} | {number} |" for reason, number in _outside(groups).items()),
        lacking=_listed(lacking),
        contrib=_listed(name for domain, name, _ in REGISTRY.names() if domain == "com.microsoft"),
        fused=_listed(sorted(name for domain, name in FUSED if domain)),
        removed=_listed(sorted(name for _, name in REMOVED)),
    )


def _row(name: str, groups: Mapping[str, tuple[ConformanceCase, ...]], counts: Counts) -> str:
    schema = defs.get_schema(name)
    first = min(s.since_version for s in defs.get_all_schemas_with_history() if _same(s, name))
    last = max(s.since_version for s in defs.get_all_schemas_with_history() if _same(s, name))
    newest = last - 1 if schema.deprecated else NEWEST_OPSET
    opsets = f"{max(first, OLDEST_OPSET)}–{newest}"
    operator = _newest(name)
    forward = "rewritten" if operator is None else "load time" if _all_static(operator) else "yes"
    rule, kind = _rule(name, operator, schema)
    own, expanded = (_fraction(group, groups, counts) for group in (name, f"{name}-expanded"))
    return f"| {name} | {opsets} | {forward} | {rule} | {kind} | {own} | {expanded} |"


def _same(schema: defs.OpSchema, name: str) -> bool:
    return bool(schema.name == name and schema.domain == "")


def _newest(name: str) -> Operator | None:
    registered = any(name == known for domain, known, _ in REGISTRY.names() if not domain)
    return REGISTRY.find(name, NEWEST_OPSET) if registered else None


def _all_static(operator: Operator) -> bool:
    """Whether the operator needs all its inputs' values while the model is loaded."""
    parameters = inspect.signature(operator.function).parameters.values()
    count = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    return operator.static >= set(range(count)) and not any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _rule(name: str, operator: Operator | None, schema: defs.OpSchema) -> tuple[str, str]:
    """Names of the rules in the order they are tried, and the classes that these have."""
    if operator is None:
        return "that of what it becomes", "—"
    rules = inverse.REGISTRY.rules(name)
    if not rules and (_made_at_load_time(operator) or not _gives_floats(schema)):
        return "none", "constant"
    if not rules or not rules[0].unconditional:
        rules = (*(r for r in rules if not r.unconditional), *(r for r in rules if r.unconditional))
        if not any(rule.unconditional for rule in rules):
            rules = (*rules, inverse.LEAST_SQUARES)
    names = dict.fromkeys(rule.name for rule in rules)
    return ", else ".join(names), ", ".join(dict.fromkeys(rule.kind for rule in rules))


def _made_at_load_time(operator: Operator) -> bool:
    return _all_static(operator) or inspect.signature(operator.function).return_annotation == "np.ndarray"


def _gives_floats(schema: defs.OpSchema) -> bool:
    """Quantised integers count: they are carried as floats."""
    result = schema.outputs[0].type_str
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}.get(result, [result])
    return "tensor(float)" in allowed or "Quantize" in schema.name


def _is_operator(name: str) -> bool:
    cases = grouped_cases()[name]
    return bool(cases[0].operator) and not name.endswith("-expanded") and ":" not in name


def _ours(cases: Iterable[ConformanceCase]) -> list[ConformanceCase]:
    return [case for case in cases if not outside(case)]


def _fraction(group: str, groups: Mapping[str, tuple[ConformanceCase, ...]], counts: Counts) -> str:
    if group not in groups:
        return "" if group.endswith("-expanded") else "–"
    return f"{counts.passed.get(group, 0)}/{len(_ours(groups[group]))}"


def _share(groups: Mapping[str, tuple[ConformanceCase, ...]], counts: Counts) -> str:
    passed = sum(counts.passed.get(name, 0) for name in EXPECTED)
    ours = sum(len(_ours(groups.get(name, ()))) for name in EXPECTED)
    return f"{passed} of {ours} ({passed / ours:.1%})"


def _outside(groups: Mapping[str, tuple[ConformanceCase, ...]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for cases in groups.values():
        for reason in filter(None, map(outside, cases)):
            found[reason] = found.get(reason, 0) + 1
    return dict(sorted(found.items()))


def _by_reason() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in EXCLUDED.items():
        found.setdefault(reason, []).append(name)
    return found


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


_TEMPLATE = """# Operators

This page is made by `docs/make_operators.py`: the numbers are those of the backend test suite that ships in
onnx {onnx}, run against the forward program.

Models of ai.onnx opset {oldest} to {newest} are read; an operator means what it meant in the file's opset.
`naflow inspect` names every node that cannot be computed, why, and the line that would register its
operator. It computes and compiles nothing for that: for a network of some hundred nodes it takes under a
second once the program has started (`tests/naflow_core/test_public_api.py` holds it to that). Another
operator is added by a function, see [CONTRIBUTING.md](../CONTRIBUTING.md#adding-an-operator).

## ai.onnx

* **opsets**: versions in which a file may use it.
* **forward**: *load time* where all inputs have to be known when the model is loaded; *rewritten* where other
  operators take its place.
* **inverse rule**: how a flow passes it. The first rule that is right for a node's attributes is taken.
* **class**: *exact* inverses; *mask*, where abandonment does the work; *passthrough* for copies;
  *least_squares*, solved for; *constant*, where no flow passes: positions, counts, truth values.
* **cases**: passed cases of the suite, of those with element types that are taken. Inputs that real networks
  hold as constants are fed as constants where the operator wants that.
* **spelt out**: the same for cases in which ONNX writes the operator as a function of simpler ones.

| operator | opsets | forward | inverse rule | class | cases | spelt out |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

Of the cases of the operators that networks for pictures, signals and volumes are made of,
{share} pass.

## Whole models

| suite | passed |
| --- | --- |
{suites}

## Cases that do not pass

{excluded}

Cases with element types that are not taken are not run:

| because of | cases |
| --- | --- |
{odd}

## Not there

The suite also has cases of: {lacking}.

Where an exporter writes the body of such an operator in its place, that is computed:

| spelt out | passed |
| --- | --- |
{bodies}

## Other operators

Of ONNX Runtime's com.microsoft domain: {contrib}. Taken apart into standard operators while loading: {fused}.
Old operators that ONNX no longer has, read as what they meant: {removed}.
"""


def catalogue() -> str:
    """Names of all operators that come with naflow, and the reasons of those that are refused."""
    own = {
        (domain, name)
        for domain, name, versions in REGISTRY.names()
        if REGISTRY.find(name, versions[-1], domain).function.__module__.startswith("naflow_core.")
    }
    known = sorted({*own, *UNFOLDED})
    listed = {"known": known, "refused": REGISTRY.reasons()}
    parts = (
        f'"{name}": [\n' + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]"
        for name, rows in listed.items()
    )
    return "{" + ", ".join(parts) + "}\n"


def main() -> int:
    """Write both, or the list, or compare them."""
    if "--check" not in sys.argv[1:]:
        LIST.write_text(catalogue(), encoding="utf-8")
        if "--list" not in sys.argv[1:]:
            PAGE.write_text(render(run_suite()), encoding="utf-8")
        return 0
    text = PAGE.read_text(encoding="utf-8")
    if render(read_counts(text)) == text and LIST.read_text(encoding="utf-8") == catalogue():
        return 0
    sys.stderr.write("the operators' page or list is out of date: run python docs/make_operators.py\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
