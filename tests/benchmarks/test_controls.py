"""benchmarks/controls.py: on the bundled network, and on a contest that a control wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.benchmarks import script

controls = script("controls")


def test_no_control_wins_on_the_bundled_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "controls.json"
    methods = ["--methods", "naflow", "layer-cam", "random", "centre"]
    kept = ["--out", str(tmp_path / "work"), "--json", str(out)]
    arguments = ["controls.py", "--scenes", "4", "--metrics", "layer-deletion", *methods, *kept]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        controls.main()
    assert ended.value.code == 0
    rows = json.loads(out.read_text(encoding="utf-8"))[controls.DIGITS]
    assert [row["control wins"] for row in rows] == [False] * 3
    assert all(row["mean"] > row["its mean"] and row[controls.OURS] <= row["mean"] for row in rows)
    assert "a control wins 0 of 3 contests" in capsys.readouterr().out


@pytest.mark.parametrize(("better", "wins"), [("higher", False), ("lower", True)])
def test_a_control_that_wins_is_told(better: str, wins: bool) -> None:
    def entry(method: str, mean: float) -> dict[str, object]:
        return {"metric": "m", "layer": "t", "method": method, "mean": mean, "difference": {"p": 0.25}}

    result = {
        "metrics": [{"name": "m", "better": better}],
        "layers": [{"tensor": "t"}],
        "methods": [{"name": "naflow", "control": False}, {"name": "centre", "control": True}],
        "results": [entry("naflow", 0.5), entry("centre", 0.25)],
    }
    (row,) = controls.contests(result)
    assert (row["best method"], row["best control"], row["control wins"]) == ("naflow", "centre", wins)
