"""A finished explanation, and the files that can be made of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from naflow_client.answers import Flow, Header, LayerFailure, Prediction, Summary
from naflow_client.errors import OutputError
from naflow_client.inputs import Inputs
from naflow_client.presentation import (
    TOP,
    Pictured,
    picture_report,
    save_gif,
    save_maps,
    save_overlays,
)
from naflow_client.report import Compared, Comparison, PictureReport, Report, write_report

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """All flows of one explanation, nearest to the input first.

    Attributes:
        header: what the model said.
        flows: of all layers that have a map.
        failures: layers that have none.
        summary: times and counts.
        inputs: what was sent.
    """

    header: Header
    flows: tuple[Flow, ...]
    failures: tuple[LayerFailure, ...]
    summary: Summary
    inputs: Inputs

    def save(self, path: PathLike) -> Path:
        """Write flows.npz: one key per layer in order, float32; [H, W] for one picture, else [N, H, W].

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            return save_maps(path, self.flows)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputError(f"{os.fspath(path)}: cannot be written: {reason}", "choose another") from error

    def save_overlays(self, folder: PathLike, *, labels: Sequence[str] | None = None) -> list[Path]:
        """One PNG per layer, for several pictures in a folder each.

        Raises:
            OutputError: a file cannot be written.
        """
        return save_overlays(Path(folder), self.pictures(labels))

    def save_gif(self, path: PathLike, *, picture: int = 0, labels: Sequence[str] | None = None) -> Path:
        """The layers of one picture as an animation, first to last.

        Raises:
            OutputError: the file cannot be written.
        """
        return save_gif(Path(path), self.pictures(labels)[picture])

    def save_html(self, path: PathLike, *, title: str = "", labels: Sequence[str] | None = None) -> Path:
        """One self-contained HTML file.

        Args:
            title: heading; the model's name when "".
            labels: class names, one for each of the model's classes.

        Raises:
            OutputError: the file cannot be written.
        """
        header = self.header
        return write_report(
            path,
            Report(
                title=title or f"Layer flows of {header.model}",
                pictures=self.pictures(labels),
                method=header.method,
                model={"name": header.model, "version": header.version, "sha256": header.sha256},
                warnings=[f"layer {item.tensor}: {item.error.message}" for item in self.failures],
            ),
        )

    def pictures(self, labels: Sequence[str] | None = None) -> list[PictureReport]:
        """Each picture with its layers, ready to be drawn."""
        names = labels or ()

        def name(k: int) -> str:
            return names[k] if k < len(names) else f"class {k}"

        shown = self.candidate if self.inputs.compared is not None else name
        return [picture_report(item, self.flows, i, shown) for i, item in enumerate(self.facts())]

    def candidate(self, number: int) -> str:
        """With a similarity target: what "class" `number` stands for, a reference, way or label."""
        for prediction in self.header.predictions:
            for row in (prediction.target, *prediction.best):
                if row.index == number and row.label:
                    return row.label
        known = self.inputs.compared
        if known is not None and known.paired:
            return "pair"
        return known.names[number] if known is not None and number < len(known.names) else str(number)

    def facts(self) -> tuple[Pictured, ...]:
        """Each picture without its layers."""
        return tuple(
            Pictured(
                name=self.inputs.name(i),
                display=self.inputs.display(i),
                output=self.header.output,
                best=tuple((row.index, row.score) for row in prediction.best),
                target=prediction.target.index,
                logit=prediction.target_score,
                squashed_by=prediction.squashed_by,
                # of a similarity it has no scores to show
                reference=prediction.reference if prediction.similarity is None else None,
                comparison=self._comparison(prediction),
            )
            for i, prediction in enumerate(self.header.predictions)
        )

    def _comparison(self, prediction: Prediction) -> Comparison | None:
        found, known = prediction.similarity, self.inputs.compared
        if found is None or known is None:
            return None
        names, pictures = known.names, known.pictures
        return Comparison(
            found.metric,
            found.score,
            found.top_channels[:TOP],
            [
                Compared(
                    label=names[item.index] if item.index < len(names) else item.label,
                    name="",
                    similarity=item.similarity,
                    used=item.used,
                    picture=pictures.get(item.index),
                )
                for item in found.neighbours
            ],
        )
