"""Which options of the method make faithful maps? The study behind the defaults.

    python benchmarks/faithfulness.py [--zoo FOLDER] [--networks NAME ...] [--pictures N] [--scenes N]
                                      [--stage options|evidence|rivals|all] [--out FOLDER]

Three stages on each network, at a shallow, a middle and a deep block:

    options   one method, many options: inverse, rows, feasibility, anchor, abandonment, damping
    evidence  how channels are added, under both inverses, beside LayerCAM and HiResCAM
    rivals    the default options beside the controls and the methods people would use instead

The bundled network is measured on freshly drawn scenes of its test split (whose boxes are exact), those of
--zoo (real trained networks) on its photographs with boxes. Measures: energy inside the box, and layer
deletion (how much more of the score is lost when a layer's own strongest cells are zeroed than when random
ones are), each with a 95 % bootstrap interval; with `evidence` also the rank correlation with the map of a
network whose head (and top block) is shuffled, on the first pictures, and a "-" where deletion is worse than
LayerCAM's (p < 0.05, paired). Work is kept per picture under --out and goes on where it was
interrupted; the tables are printed as Markdown, and written there as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from service_process import machine

import naflow_core as nf
from naflow_client import Preprocessing, load_picture
from naflow_core.evaluate import Evaluation, Picture, rivals

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "digits_in_clutter"
sys.path.insert(0, str(EXAMPLE))

from dataset import as_input, load_sources, scenes  # noqa: E402  (a folder of scripts, not a package)

METRICS = ("energy", "layer-deletion")
RANDOMISED = "randomisation"
SIGNIFICANT = 0.05
PROBED = 8
"""Pictures whose maps are made again with a shuffled head."""
DIGITS = "digits_in_clutter"
REAL = ("resnet20", "mobilenetv1_025_128_tf_logits", "squeezenet11", "mobilenetv2_050", "mobilenetv2_100")
RECIPE = ("channels", "size", "resize_shorter", "crop", "crop_fraction", "subtract", "divide")
SEED = 20
RIVALS = (
    "grad-cam", "grad-cam++", "layer-cam", "hires-cam", "eigen-cam", "gradient-x-input",
    "random", "centre", "edges", "empty",
)  # fmt: skip


def options() -> dict[str, nf.Method]:
    """The grid: every line of options through its middle, and the corners that matter."""
    found: dict[str, nf.Method] = {}

    def add(name: str, **changes: Any) -> None:
        changes["abandon"] = nf.Abandonment.parse(changes.pop("abandon", "mass:0.95"))
        found[name] = nf.Method.preset("positive", **changes)

    for rule in ("zero-gradient", "mass:0.99", "mass:0.98", "mass:0.95", "mass:0.9", "mass:0.7"):
        add(f"activation, {rule}", inverse="activation", abandon=rule)
        add(f"retained, {rule}", rows="retained", abandon=rule)
        add(f"active, {rule}", rows="active", abandon=rule)
    for rule in ("soft-mass:0.98", "soft-mass:0.95", "soft-mass:0.9", "soft-mass:0.8"):
        add(f"retained, {rule}", rows="retained", abandon=rule)
        add(f"active, {rule}", rows="active", abandon=rule)
    add("activation, soft-mass:0.9", inverse="activation", abandon="soft-mass:0.9")
    for rule in ("mass:0.98", "mass:0.95", "soft-mass:0.9"):
        add(f"all, {rule}", rows="all", abandon=rule)
    for rule in ("zero-gradient", "mass:0.95"):
        add(f"retained, unbounded, {rule}", rows="retained", feasible=False, abandon=rule)
    for rows in ("retained", "active"):
        for anchor in ("activation", "signed"):
            add(f"{rows}, anchor {anchor}, mass:0.95", rows=rows, anchor=anchor)
    for damping in (0.0, 0.1, 1.0):
        add(f"retained, damping {damping:g}, mass:0.95", rows="retained", damping=damping)
    add("active, damping 1, mass:0.95", rows="active", damping=1.0)
    add("active, damping 1, mass:0.98", rows="active", damping=1.0, abandon="mass:0.98")
    return found


def evidence() -> list[Any]:
    """Ways to add channels, to keep neurons and to choose among preimages, and the methods they resemble."""
    soft, balanced, graded = "soft-mass:0.9", "balanced-mass:0.9", "graded-mass:0.9"
    inverses = {
        "smallest": {"anchor": "origin"},
        "relative": {"anchor": "relative"},
        "nearest": {"anchor": "activation"},
        "activation": {"inverse": "activation"},
    }
    ways = {
        "nearest": (("net", graded), ("net", "graded-mass:0.8"), ("net", balanced), ("positive", soft)),
        "activation": (("net", graded), ("positive", soft)),
        "smallest": (("positive", soft), ("net", balanced), ("net", graded)),
        "relative": (("net", "balanced-mass:0.93"),),
    }
    found: list[Any] = []
    for inverse, kinds in ways.items():
        for kind, rule in kinds:
            options = {**inverses[inverse], "evidence": kind, "abandon": nf.Abandonment.parse(rule)}
            found.append(rivals.variant(f"{inverse}, {kind}, {rule}", nf.Method.preset("default", **options)))
    return [*found, *(rivals.find(name) for name in ("layer-cam", "hires-cam", "grad-cam", "random"))]


@dataclass(frozen=True)
class Case:
    """A network and what it is measured on."""

    name: str
    model: nf.Model
    pictures: tuple[Picture, ...]


def digits(count: int) -> Case:
    """The bundled network on scenes that it never saw."""
    drawn = list(scenes(load_sources("test"), count, SEED))
    side = drawn[0].picture.shape[0]
    x = as_input(np.stack([scene.picture for scene in drawn]))
    pictures = (
        Picture(f"scene {i}", x[i : i + 1], (scene.label,), (tuple(n / side for n in scene.box),))  # type: ignore[arg-type]
        for i, scene in enumerate(drawn)
    )
    return Case(DIGITS, nf.load(EXAMPLE / "digits_in_clutter.onnx"), tuple(pictures))


def trained(zoo: Path, name: str) -> tuple[nf.Model, dict[str, Any], Preprocessing]:
    """A real network, what is known of it, and how a picture becomes its input."""
    path = next((zoo / "models").glob(f"{name}*.onnx"))
    facts = json.loads((zoo / "models" / "manifest.json").read_text(encoding="utf-8"))[path.name]
    return nf.load(path), facts, Preprocessing.from_dict({key: facts[key] for key in RECIPE if key in facts})


def photographs(zoo: Path, name: str, count: int | None) -> Case:
    """A real network on the photographs whose object is boxed."""
    model, facts, recipe = trained(zoo, name)
    entries = json.loads((zoo / "images" / "manifest.json").read_text(encoding="utf-8"))
    boxed = {Path(e["path"]).name: e for e in entries if e["boxes_xyxy"]}
    shift = 1 if "background" in facts.get("labels", "") else 0
    named = facts["task"] == "imagenet"
    shape: Any = model.inputs[0].shape
    pictures = []
    for file in sorted(boxed)[:count]:
        prepared = recipe.apply(load_picture(zoo / "images" / file), shape)
        boxes = [seen for box in boxed[file]["boxes_xyxy"] if (seen := _share(box, prepared.box)) is not None]
        classes = [k + shift for k in boxed[file]["imagenet_labels"]] if named else ()
        if boxes:
            pictures.append(Picture(file, prepared.array, classes, boxes))
    return Case(name, model, tuple(pictures))


def _share(box: Sequence[float], view: Sequence[float]) -> tuple[float, float, float, float] | None:
    """A box in pixels as shares of the part that the model sees; None outside of it."""
    ends = np.array(box, float).reshape(2, 2)
    low, high = np.array(view, float).reshape(2, 2)
    (left, top), (right, bottom) = np.clip((ends - low) / (high - low), 0, 1).tolist()
    return (left, top, right, bottom) if left < right and top < bottom else None


def measure(
    case: Case, methods: Sequence[Any], against: str, metrics: Sequence[str], folder: Path
) -> dict[str, Any]:
    """One evaluation, resumed where it was left."""
    resume = folder.exists()
    evaluation = Evaluation(
        case.model, case.pictures, methods=methods, metrics=metrics, against=against, seed=SEED,
        probed=PROBED, folder=folder, resume=resume,
    )  # fmt: skip
    began, last = time.monotonic(), ""
    for row in evaluation.run():
        if row.picture != last:
            last = row.picture
            print(f"{case.name}: {last} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    return evaluation.result()


def table(result: Mapping[str, Any]) -> Iterator[str]:
    """Markdown: a line per method, energy and layer deletion at each layer (and the correlation with a
    randomised head / head and top block)."""
    layers = [layer["tensor"] for layer in result["layers"]]
    sizes = ["x".join(map(str, layer["resolution"])) for layer in result["layers"]]
    metrics = [metric["name"] for metric in result["metrics"]]
    further = " | randomised" if RANDOMISED in metrics else ""
    yield "| | " + " | ".join(f"{size}: energy | deletion{further}" for size in sizes) + " |"
    yield "| --- |" + " --- |" * (len(metrics) * len(layers))
    cells = {(e["metric"], e["layer"], e["method"]): e for e in result["results"]}
    for method in result["methods"]:
        row = []
        for layer in layers:
            for metric in metrics:
                entry = cells[metric, layer, method["name"]]
                low, high = entry["low"], entry["high"]
                gap = entry["difference"]
                worse = metric == "layer-deletion" and gap and gap["mean"] > 0 and gap["p"] < SIGNIFICANT
                mark = " -" if worse and RANDOMISED in metrics else ""
                if metric == RANDOMISED:
                    row.append(" / ".join(f"{mean:.2f}" for _, mean in entry["curve"][:2]))
                else:
                    row.append(f"{entry['mean']:.3f} ±{(high - low) / 2:.3f}{mark}")
        yield f"| {method['name']} | " + " | ".join(row) + " |"


def main() -> None:
    """Run the stages and print their tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path)
    parser.add_argument("--networks", nargs="+", choices=(DIGITS, *REAL))
    parser.add_argument("--stage", choices=("options", "evidence", "rivals", "all"), default="all")
    parser.add_argument("--pictures", type=int, help="photographs at most")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "faithfulness")
    given = parser.parse_args()
    names = given.networks or (DIGITS, *(REAL if given.zoo else ()))
    if given.zoo is None and set(names) & set(REAL):
        raise SystemExit("the real networks are in --zoo FOLDER")
    for name in names:
        case = digits(given.scenes) if name == DIGITS else photographs(given.zoo, name, given.pictures)
        own = [rivals.variant(n, m) for n, m in options().items()]
        beside = [rivals.find(n) for n in ("naflow", "net", "published-code", "paper", *RIVALS)]
        stages: dict[str, tuple[list[Any], str, tuple[str, ...]]] = {
            "options": (own, "retained, mass:0.95", METRICS),
            "evidence": (evidence(), "layer-cam", (*METRICS, RANDOMISED)),
            "rivals": (beside, "naflow", METRICS),
        }
        for stage, (methods, against, metrics) in stages.items():
            if given.stage in (stage, "all"):
                result = measure(case, methods, against, metrics, given.out / name / stage)
                path = given.out / f"{name}-{stage}.json"
                path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                print(f"\n### {name}, {stage}: {len(case.pictures)} pictures; {machine()}\n")
                print("\n".join(table(result)), flush=True)


if __name__ == "__main__":
    main()
