"""The HTML report of an evaluation: one file, no script, nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from naflow_cli.plots import Bar, Line, bars, lines, number_text
from naflow_client.render.overlays import tile
from naflow_core.evaluate import FLOW

COLOURS = 10
THUMBNAIL = 104
DIRECTIONS = {
    "higher": "higher is better",
    "lower": "lower is better",
    "neither": "describes, does not judge",
}
AXES = {"randomisation": "blocks randomised, from the top"}


def render_page(
    result: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    displays: Mapping[str, NDArray[np.uint8]],
    label: Mapping[int, str],
) -> str:
    """The page's text.

    Args:
        result: of `Evaluation.result`, with "model".
        examples: of `Evaluation.examples`.
        displays: uint8 RGB [h, w, 3] by picture name.
        label: class names by number, as far as there are any.
    """
    style = resources.files("naflow_cli").joinpath("evaluation.css").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    styles = _styles(result["methods"])
    title = f"Evaluation of {result['model']['file']}"
    body = [
        _head(result, title),
        _winners(result),
        *(_metric(result, metric, styles) for metric in result["metrics"]),
        _examples(result, examples, displays, label),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _styles(methods: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """A class of the style sheet for every method; controls are grey."""
    names = [m["name"] for m in methods if not m["control"]]
    return {m["name"]: "control" if m["control"] else f"s{names.index(m['name']) % COLOURS}" for m in methods}


def _head(result: Mapping[str, Any], title: str) -> str:
    layers = ", ".join(html.escape(layer["tensor"]) for layer in result["layers"])
    notes = "".join(f'<p class="warn">{html.escape(text)}</p>' for text in result["notes"])
    return (
        f"<h1>{html.escape(title)}</h1>"
        f'<p class="quiet">{len(result["pictures"])} pictures, seed {result["seed"]}, layers {layers}. '
        f"Bars are means over pictures, with 95 % bootstrap intervals; <b>{FLOW}</b> is the mean of "
        f"the layers. Grey bars and dashed lines are controls.</p>{notes}"
    )


def _winners(result: Mapping[str, Any]) -> str:
    warnings = "".join(
        f'<p class="warn">The control {html.escape(w["method"])} wins {html.escape(w["metric"])} at '
        f"{html.escape(w['layer'])}: here this measure does not tell explanations from controls.</p>"
        for w in result["controls_that_win"]
    )
    layers = [*(layer["tensor"] for layer in result["layers"]), FLOW]
    by_place = {(w["metric"], w["layer"]): w["method"] + " (control)" * w["control"] for w in result["best"]}
    rows = "".join(
        "<tr>"
        f"<td>{html.escape(metric['name'])}{'*' if metric['faithfulness'] else ''}</td>"
        + "".join(f"<td>{html.escape(by_place.get((metric['name'], layer), ''))}</td>" for layer in layers)
        + "</tr>"
        for metric in result["metrics"]
        if any((metric["name"], layer) in by_place for layer in layers)
    )
    heads = "".join(f"<th>{html.escape(layer)}</th>" for layer in layers)
    return (
        f'<section class="card"><h2>Best at each layer</h2>{warnings}<div class="scroll"><table><thead><tr>'
        f"<th>measure</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
        '<p class="quiet">* measure of faithfulness. The others can be won without looking at the model.</p>'
        "</section>"
    )


def _metric(result: Mapping[str, Any], metric: Mapping[str, Any], styles: Mapping[str, str]) -> str:
    entries = [entry for entry in result["results"] if entry["metric"] == metric["name"]]
    if not entries:
        return ""
    badge = '<span class="badge">measure of faithfulness</span>' if metric["faithfulness"] else ""
    plots, curves = [], []
    for layer in dict.fromkeys(entry["layer"] for entry in entries):
        here = [entry for entry in entries if entry["layer"] == layer]
        items = [Bar(e["method"], styles[e["method"]], e["mean"], e["low"], e["high"]) for e in here]
        plots.append(bars(items, layer))
        traced = [Line(e["method"], styles[e["method"]], [(x, y) for x, y in e["curve"]]) for e in here]
        traced = [line for line in traced if len(line.points) > 1]
        if traced:
            curves.append(lines(traced, layer, AXES.get(metric["name"], "share of cells")))
    legend = ""
    if curves:
        shown = "".join(
            f'<li><svg viewBox="0 0 14 10" aria-hidden="true"><rect class="{style}" width="14" height="10"/>'
            f"</svg>{html.escape(name)}</li>"
            for name, style in styles.items()
        )
        legend = f'<ul class="legend">{shown}</ul><div class="plots">{"".join(curves)}</div>'
    return (
        f'<section class="card"><h2>{html.escape(metric["name"])}{badge}</h2>'
        f'<p class="quiet">{html.escape(metric["summary"])}; {DIRECTIONS[metric["better"]]}.</p>'
        f'<div class="plots">{"".join(plots)}</div>{legend}</section>'
    )


def _examples(
    result: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    displays: Mapping[str, NDArray[np.uint8]],
    label: Mapping[int, str],
) -> str:
    facts = {picture["name"]: picture for picture in result["pictures"]}
    parts = []
    for example in examples:
        display = displays.get(example["name"])
        if display is None:
            continue
        small = _thumbnail(display)
        methods = list(dict.fromkeys(item["method"] for item in example["maps"]))
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in methods)
        rows = []
        for layer in result["layers"]:
            maps = {m["method"]: m for m in example["maps"] if m["layer"] == layer["tensor"]}
            cells = "".join(f"<td>{_overlay(small, maps[name])}</td>" for name in methods)
            rows.append(f"<tr><th>{html.escape(layer['tensor'])}</th>{cells}</tr>")
        fact = facts[example["name"]]
        named = label.get(fact["class"], f"class {fact['class']}")
        parts.append(
            f"<h2>{html.escape(example['name'])}: {html.escape(named)}, probability "
            f'{number_text(fact["probability"])}</h2><div class="scroll"><table class="maps"><thead><tr>'
            f"<th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )
    return f'<section class="card">{"".join(parts)}</section>' if parts else ""


def _thumbnail(display: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = display.shape[:2]
    scale = THUMBNAIL / width
    size = THUMBNAIL, max(1, round(height * scale))
    return np.array(Image.fromarray(display).resize(size, Image.Resampling.BILINEAR))


def _overlay(picture: NDArray[np.uint8], entry: Mapping[str, Any]) -> str:
    levels = np.frombuffer(base64.b64decode(entry["levels"]), np.uint8)
    pixels, reason = tile(picture, levels.reshape(entry["height"], entry["width"]).astype(np.float32))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=85)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    alt = html.escape(f"{entry['method']} {reason}".strip())
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{data}">'
