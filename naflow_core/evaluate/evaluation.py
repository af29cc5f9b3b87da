"""The evaluation itself: pictures x layers x methods x measures, row by row."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from naflow_core.errors import AnalysisError, InputError, NumericalError, OptionError, TargetError
from naflow_core.evaluate.examples import levels
from naflow_core.evaluate.folder import WorkFolder
from naflow_core.evaluate.metrics import METRICS, Metric, Outcome, Sample, Shown
from naflow_core.evaluate.metrics.removal import SHARES
from naflow_core.evaluate.metrics.stability import TWIN, matching
from naflow_core.evaluate.picture import Picture
from naflow_core.evaluate.rivals import Rival, find
from naflow_core.evaluate.subject import Subject
from naflow_core.evaluate.summary import Row, Values, best, summarised
from naflow_core.evaluate.threads import side_by_side
from naflow_core.explainer import Model

METHODS = (
    "naflow", "published-code", "grad-cam", "layer-cam", "hires-cam", "gradient-x-input", "occlusion",
    "random", "centre", "edges", "empty",
)  # fmt: skip
FIRST = "naflow"
"""What the others are compared with, where it takes part."""
PLACES = (0.15, 0.5, 0.85)
"""Shallow, middle and deep, as shares of the way through the blocks."""
PROBED = 8
"""Pictures that measures see which compute maps again."""
MOST_RUNS = 100
"""Of the network for one map, where it is computed again."""
EXAMPLES = 4
"""Pictures whose maps are kept for the report."""


class Evaluation:
    """How well methods explain a model, on pictures and in the company of controls.

    Everything is settled by the seed and the pictures: neither their order nor interruptions change a value.
    A picture is finished or not there at all.

    Attributes:
        subject: the model.
        layers: tensor names, nearest to the input first.
        methods, metrics: what is compared, and by what.
        settings: what the results depend on, as JSON values.
        total: number of rows that `run` gives.
    """

    def __init__(
        self,
        model: Model,
        pictures: Sequence[Picture],
        *,
        methods: Sequence[str | Rival] = METHODS,
        metrics: Sequence[str] | None = None,
        layers: str | Sequence[str] = "auto",
        seed: int = 0,
        against: str | None = None,
        probed: int = PROBED,
        output: str | None = None,
        top_feature_map: str | None = None,
        twin: Model | None = None,
        folder: Path | None = None,
        resume: bool = False,
    ) -> None:
        """Args:
            methods: names of registered methods, or methods.
            metrics: names of measures; the usual ones, with those that the pictures' boxes allow, when None.
            layers: "auto" (a shallow, a middle and a deep block), "blocks", "spine", or tensor names.
            seed: of everything random.
            against: the method that the others are compared with in pairs; when None, `naflow`, or the first
                one where that does not take part.
            probed: how many pictures the measures see that compute maps again (the first ones); they leave
                methods out that run the network more than `MOST_RUNS` times for a map.
            output, top_feature_map: as for `Model.explain`.
            twin: another file of the same network, for the measures of stability; it is given the pictures'
                variant "twin" where they have one.
            folder: where finished pictures are written down.
            resume: go on with what is in that folder.

        Raises:
            OptionError: unknown or repeated names, or a folder that does not fit.
            InputError, TargetError, AnalysisError, UnsupportedOperatorError: pictures or model do not fit.
        """
        self.pictures = _checked(pictures)
        self.methods = tuple(find(m) if isinstance(m, str) else m for m in methods)
        self._refuse_repeated([m.name for m in self.methods], "method")
        boxes = any(p.boxes for p in pictures)
        chosen = [m.name for m in METRICS if m.default and (boxes or not m.boxes)]
        self.metrics = tuple(METRICS[name] for name in (chosen if metrics is None else metrics))
        self._refuse_repeated([m.name for m in self.metrics], "measure")
        self.seed, self.probed = seed, probed
        names = [m.name for m in self.methods]
        self.against = against or (FIRST if FIRST in names else names[0])
        if self.against not in names:
            raise OptionError(f"method {self.against!r} to compare with is not among the methods")
        subject = functools.partial(
            Subject,
            model,
            output=output,
            top_feature_map=top_feature_map,
            shape=self.pictures[0].x.shape[1:],
            batch=len(SHARES),  # one curve at a time
        )
        self.subject = subject(layers=layers if layers != "auto" else spread(subject()))
        self.layers = self.subject.studied
        self.twin = None if twin is None else _twin(self.subject, twin, self.pictures)
        self._folder = None
        for picture in self.pictures:
            self._check(picture)
        if folder is not None:
            self._folder = WorkFolder(folder, self.settings, resume=resume)
        self._finished: dict[str, dict[str, Any]] = {} if self._folder is None else self._folder.finished

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What every value depends on."""
        from naflow_core import __version__

        return {
            "version": __version__,
            "model": self.subject.model.sha256,
            "twin": None if self.twin is None else self.twin.model.sha256,
            "output": self.subject.plan.head.output,
            "top_feature_map": self.subject.top,
            "layers": list(self.layers),
            "methods": [
                {"name": m.name, "options": {k: repr(v) for k, v in sorted(m.options.items())}}
                for m in self.methods
            ],
            "metrics": [m.name for m in self.metrics],
            "seed": self.seed,
            "probed": self.probed,
            "randomised": {"depths": list(self._depths), "shuffled": "for each picture"},
            "pictures": [picture.digest for picture in self.pictures],
        }

    @property
    def total(self) -> int:
        """Rows of a whole run."""
        each = len(self.layers) * len(self.methods)
        return each * sum(len(self._asked(i)) for i in range(len(self.pictures)))

    def run(self) -> Iterator[Row]:
        """All rows, picture by picture; those of finished pictures come from the folder.

        Raises:
            NumericalError: a map or a measure is nan or infinite.
        """
        for number, picture in enumerate(self.pictures):
            digest = picture.digest
            if digest not in self._finished:
                rows: list[Row] = []
                sample = self._sample(picture)
                maps: dict[tuple[str, str], np.ndarray] = {}
                for row in self._picture(number, sample, maps):
                    rows.append(row)
                    yield row
                entry = self._entry(number, sample, rows, maps)
                if self._folder is None:
                    self._finished[digest] = entry
                else:
                    self._folder.add(digest, entry)
            else:
                yield from _rows(self._finished[digest])

    def result(self) -> dict[str, Any]:
        """The outcome as JSON values, after `run` has ended.

        Equal for equal seeds, pictures and settings; there are no times in it.

        Raises:
            OptionError: not every picture is finished.
        """
        missing = [p.name for p in self.pictures if p.digest not in self._finished]
        if missing:
            raise OptionError(f"{len(missing)} pictures are not evaluated yet, {missing[0]!r} for one")
        entries = [self._finished[p.digest] for p in self.pictures]
        rows = (row for entry in entries for row in _rows(entry))
        values = Values.of(rows, self.layers)
        names = [m.name for m in self.methods]
        table = summarised(values, self.metrics, self.layers, names, self.against, self.seed)
        controls = [m.name for m in self.methods if m.control]
        winners = best(table, self.metrics, controls)
        facts = dict(self.settings)
        del facts["pictures"]
        return {
            **facts,
            "against": self.against,
            "layers": [self._layer(name) for name in self.layers],
            "methods": [
                {"name": m.name, "control": m.control, "resolution": m.resolution, "source": m.source}
                for m in self.methods
            ],
            "metrics": [_described(m) for m in self.metrics],
            "pictures": [{k: e[k] for k in ("name", *FACTS)} for e in entries],
            "results": table,
            "best": winners,
            "controls_that_win": [w for w in winners if w["control"] and w["faithfulness"]],
        }

    def examples(self) -> list[dict[str, Any]]:
        """Maps of the first pictures that are finished, for a report: {"name", "maps": [{"layer", "method",
        "height", "width", "levels"}]}, the levels 0..255 in base64."""
        found = []
        for picture in self.pictures[:EXAMPLES]:
            entry = self._finished.get(picture.digest)
            if entry is not None:
                found.append({"name": entry["name"], "maps": entry["maps"]})
        return found

    def _picture(self, number: int, sample: Sample, maps: dict[tuple[str, str], np.ndarray]) -> Iterator[Row]:
        measured = functools.partial(self._measured, self._asked(number), sample, maps)
        return side_by_side(measured, self.methods)

    def _measured(
        self,
        asked: Sequence[Metric],
        sample: Sample,
        maps: dict[tuple[str, str], np.ndarray],
        method: Rival,
    ) -> Iterator[Row]:
        """Rows of one method; its maps are put down in `maps`."""
        shared: dict[str, Outcome | None] = {}
        shown: Shown | None = None
        for layer in self.layers:
            known = shown.map if shown is not None and method.resolution == "input" else None
            shown = self._shown(sample, method, layer, known)
            maps[layer, method.name] = shown.map
            for metric in asked:
                if metric.probing and method.runs > MOST_RUNS:
                    outcome = None
                elif method.resolution == "input" and not metric.at_layer:
                    if metric.name not in shared:
                        shared[metric.name] = metric.function(shown)
                    outcome = shared[metric.name]
                else:
                    outcome = metric.function(shown)
                yield _row(sample.picture.name, layer, method.name, metric, outcome)

    def _asked(self, number: int) -> tuple[Metric, ...]:
        """The measures that apply to a picture."""
        boxes, probed = bool(self.pictures[number].boxes), number < self.probed
        return tuple(m for m in self.metrics if (boxes or not m.boxes) and (probed or not m.probing))

    def _sample(self, picture: Picture) -> Sample:
        scores = self.subject.scores(picture.x)[0]
        candidates = list(picture.classes) or [int(np.argmax(scores))]
        class_ = max(candidates, key=lambda k: scores[k])
        probability = self.subject.as_probabilities(scores[None])[0, class_]
        return Sample(
            subject=self.subject,
            picture=picture,
            class_=class_,
            score=float(scores[class_]),
            probability=float(probability),
            axes=self.subject.layer(self.subject.source).axes,
            seed=self.seed,
            depths=self._depths,
            twin=self.twin,
        )

    @property
    def _depths(self) -> tuple[int, ...]:
        """How many blocks are shuffled, from the top: the head, head and top block, the upper half, all."""
        whole = self.subject.depth
        return tuple(sorted({min(1, whole), min(2, whole), (whole + 1) // 2, whole} - {0}))

    def _shown(self, sample: Sample, method: Rival, layer: str, known: np.ndarray | None = None) -> Shown:
        """A method's map at a layer; `known` where it was made already."""

        def remap(subject: Subject, x: np.ndarray, class_: int, where: str, tag: str) -> np.ndarray:
            random = sample.random("method", method.name, tag)
            return method(subject, x, np.array([class_]), where, random)[0]

        if known is None:
            known = remap(self.subject, sample.picture.x, sample.class_, layer, "")
        return Shown(sample, method.name, layer, known, remap)

    def _check(self, picture: Picture) -> None:
        wrong = [k for k in picture.classes if not 0 <= k < self.subject.classes]
        if wrong:
            raise TargetError(
                f"{picture.name}: class {wrong[0]} does not exist, the model has {self.subject.classes}"
            )
        for box in picture.boxes:
            left, top, right, bottom = box
            if not (left < right and top < bottom and max(left, top) < 1 and min(right, bottom) > 0):
                raise InputError(f"{picture.name}: box {list(box)} is empty or outside the picture")

    def _layer(self, name: str) -> dict[str, Any]:
        layer = self.subject.layer(name)
        return {"tensor": name, "shape": list(layer.shape), "resolution": list(layer.resolution)}

    def _entry(
        self, number: int, sample: Sample, rows: Sequence[Row], maps: Mapping[tuple[str, str], np.ndarray]
    ) -> dict[str, Any]:
        scores = self.subject.scores(sample.picture.x)[0]
        kept = itertools.product(self.methods, self.layers) if number < EXAMPLES else ()
        return {
            "name": sample.picture.name,
            "class": sample.class_,
            "predicted": int(np.argmax(scores)),
            "score": sample.score,
            "probability": sample.probability,
            "boxes": [list(box) for box in sample.picture.boxes],
            "rows": [[r.layer, r.method, r.metric, r.value, r.curve] for r in rows],
            "maps": [{"layer": la, "method": m.name, **levels(maps[la, m.name])} for m, la in kept],
        }

    @staticmethod
    def _refuse_repeated(names: Sequence[str], what: str) -> None:
        if not names:
            raise OptionError(f"no {what} is named", hint=f"name at least one {what}")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise OptionError(f"{what} {twice[0]!r} is named twice")


FACTS = ("class", "predicted", "score", "probability", "boxes")


def spread(subject: Subject) -> tuple[str, ...]:
    """A shallow, a middle and a deep block of a model, or all where there are no more.

    Raises:
        AnalysisError: no block has height and width.
    """
    blocks = subject.studied
    if not blocks:
        raise AnalysisError("no block of this model has a map", hint="name layers")
    if len(blocks) <= len(PLACES):
        return blocks
    return tuple(dict.fromkeys(blocks[round(place * (len(blocks) - 1))] for place in PLACES))


def _checked(pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    if not pictures:
        raise InputError("there are no pictures to evaluate on", hint="give at least one")
    shape = pictures[0].x.shape
    for picture in pictures:
        if picture.x.shape[:1] != (1,) or picture.x.shape != shape:
            raise InputError(
                f"{picture.name}: has shape {list(picture.x.shape)}, the first one {list(shape)}",
                hint="all pictures need one size; fix it in the preprocessing",
            )
    names = [picture.name for picture in pictures]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"two pictures are named {twice[0]!r}", hint="rename one")
    return tuple(pictures)


def _twin(subject: Subject, model: Model, pictures: Sequence[Picture]) -> Subject:
    """The twin at the layers that match.

    Raises:
        InputError: the pictures are not what it takes.
        OptionError: it has other classes, or no layer of it matches.
    """
    given = [picture.variants.get(TWIN, picture.x) for picture in pictures]
    twin = Subject(model, shape=given[0].shape[1:])
    for x in given:
        model.check_inputs(x)
    if twin.classes != subject.classes:
        raise OptionError(f"the twin has {twin.classes} classes, the model {subject.classes}")
    names = [name for layer in subject.studied if (name := matching(subject, twin, layer)) is not None]
    if not names:
        raise OptionError("no layer of the twin has the shape of an evaluated one", hint="name others")
    return Subject(model, shape=given[0].shape[1:], layers=tuple(dict.fromkeys(names)))


def _row(picture: str, layer: str, method: str, metric: Metric, outcome: Outcome | None) -> Row:
    if outcome is None:
        return Row(picture, layer, method, metric.name, None)
    if not np.isfinite([outcome.value, *(y for _, y in outcome.curve)]).all():
        raise NumericalError(f"{picture}: {metric.name} of {method} at layer {layer!r} is nan or infinite")
    return Row(picture, layer, method, metric.name, outcome.value, outcome.curve)


def _rows(entry: Mapping[str, Any]) -> Iterator[Row]:
    for layer, method, metric, value, curve in entry["rows"]:
        yield Row(entry["name"], layer, method, metric, value, tuple((x, y) for x, y in curve))


def _described(metric: Metric) -> dict[str, Any]:
    names = ("name", "summary", "better", "faithfulness", "boxes", "probing", "stability")
    return {name: getattr(metric, name) for name in names}
