"""Whether a sweep can run on a machine, as that machine says it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raybench.commands.ready import main

SWEEP = """\
# Anything?
base: {{dataset: {{name: {0}, train_size: 60, val_size: 100}}, model: {{name: resnet8}}}}
factors: {{optimizer.lr: [0.1]}}
presets: {{quick: {{}}}}
"""


@pytest.mark.parametrize("name", ["digits", "cifar100"])
def test_data_that_are_absent_are_told_apart_from_other_faults(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYBENCH_DATA", str(tmp_path))
    monkeypatch.setenv("RAYBENCH_RESULTS", str(tmp_path / "results"))
    file = tmp_path / "some.yaml"
    file.write_text(SWEEP.format(name))
    code = main([str(file), "--preset", "quick"])
    found = json.loads(capsys.readouterr().out)
    if name == "digits":
        assert (code, found["faults"], list(found["fingerprints"])) == (0, [], ["digits"])
    else:
        assert (code, list(found["absent"].values())) == (1, ["cifar100"])
        assert found["faults"] == list(found["absent"])
