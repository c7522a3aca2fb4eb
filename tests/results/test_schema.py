"""Columns: always there, always of one type."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from raybench.config.trial import DatasetConfig, DistillationConfig, ModelConfig, TeacherConfig, TrialConfig
from raybench.errors import ResultsError
from raybench.results.schema import (
    SETTLED,
    TIME_BITS,
    EpochRow,
    Status,
    TrialRow,
    coarse,
    epoch_schema,
    epoch_table,
    trial_schema,
    trial_table,
)


def row(**config: object) -> TrialRow:
    return TrialRow(
        trial_id="a", sweep="s", preset="p", cell="c", status=Status.RUNNING, attempt=1, seed=0, config=dict(config)
    )


CONFIGS = [
    TrialConfig(dataset=DatasetConfig(name="digits", train_size=500), model=ModelConfig(name="resnet8")),
    TrialConfig(
        dataset=DatasetConfig(name="digits", augment=("crop4", "hflip"), views=5),
        model=ModelConfig(name="resnet8", options={"drop": 0.1}, mean=(0.5,)),
        distillation=DistillationConfig(type="soft", teacher=TeacherConfig(name="resnet20")),
    ),
]


def test_every_configuration_has_exactly_the_schema() -> None:
    for config in CONFIGS:
        table = trial_table(row(**config.flat()), "trial")
        assert table.schema.equals(trial_schema(), check_metadata=True)


def test_every_hyperparameter_has_a_column_and_keeps_its_value() -> None:
    config = CONFIGS[1]
    table = trial_table(row(**config.flat()), "trial")
    for key, value in config.flat().items():
        stored = table[f"config/{key}"][0].as_py()
        assert stored == value or stored == str(value), key


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("dataset.train_size", pa.string()),
        ("dataset.views", pa.string()),
        ("dataset.augment", pa.string()),
        ("dataset.image_size", pa.int64()),
        ("optimizer.lr", pa.float64()),
        ("optimizer.nesterov", pa.bool_()),
        ("distillation.type", pa.string()),
        ("distillation.alpha", pa.float64()),
        ("distillation.teacher.optimizer.lr", pa.float64()),
        ("model.mean", pa.string()),
        ("batch_size", pa.int64()),
    ],
)
def test_type_follows_the_annotation(key: str, kind: pa.DataType) -> None:
    assert trial_schema().field(f"config/{key}").type == kind


def test_unknown_keys_are_text() -> None:
    table = trial_table(row(odd=3, flag=True, list=[1], word="x", none=None), "driver")
    found = {key: table[f"config/{key}"][0].as_py() for key in ("odd", "flag", "list", "word", "none")}
    assert found == {"odd": "3", "flag": "true", "list": "[1]", "word": "x", "none": None}
    assert table["written_by"].to_pylist() == ["driver"]


def test_whole_floats_fit_whole_numbers_and_others_do_not() -> None:
    assert trial_table(row(batch_size=32.0), "trial")["config/batch_size"].to_pylist() == [32]
    for value in (float("nan"), float("inf"), 0.5, True, "32"):
        with pytest.raises(ResultsError, match="config/batch_size"):
            trial_table(row(batch_size=value), "trial")


def test_numbers_carry_units() -> None:
    units = {field.name: (field.metadata or {}).get(b"unit") for field in [*trial_schema(), *epoch_schema()]}
    assert units["eval_top1"] == b"%"
    assert units["peak_memory"] == b"MiB"
    assert units["train_time"] == b"s"
    own = [field for field in [*trial_schema(), *epoch_schema()] if "/" not in field.name]
    assert all(field.metadata[b"description"] for field in own)


def test_parts_of_the_loss() -> None:
    rows = [
        EpochRow(trial_id="a", attempt=1, epoch=2, parts={"ce": 2.0, "own": 1.0}),
        EpochRow(trial_id="a", attempt=1, epoch=1),
    ]
    table = epoch_table("a", 4, rows)
    assert table["epoch"].to_pylist() == [1, 2]
    assert table["attempt"].to_pylist() == [4, 4]
    assert table["part/ce"].to_pylist() == [None, 2.0]
    assert table["part/own"].to_pylist() == [None, 1.0]
    assert table["part/kd_soft"].to_pylist() == [None, None]


def test_rows_are_written_without_pandas(tmp_path: Path) -> None:
    """Importing it costs seconds, once in every trial's process."""
    code = (
        "import sys; from pathlib import Path\n"
        "from raybench.results.schema import EpochRow; from raybench.results.store import Store\n"
        "store = Store(Path(sys.argv[1])); store.write_epochs('a', 1, [EpochRow(trial_id='a', attempt=1, epoch=1)])\n"
        "store.last_epochs('a'); print('pandas' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "False"


def test_only_running_is_due() -> None:
    assert set(Status) - SETTLED == {Status.RUNNING}


@pytest.mark.parametrize("seconds", [0.0, 1.0, 4095.0, 2.0**-20, 3.1415926, 1234.5678, 1e-7, float("inf")])
def test_times_are_kept_to_so_many_bits(seconds: float) -> None:
    below, near, above = coarse(seconds, math.floor), coarse(seconds), coarse(seconds, math.ceil)
    assert below <= seconds <= above
    assert near in (below, above)
    assert coarse(near) == near, "once is enough, as when a trial goes on from its rows"
    assert near == pytest.approx(seconds, rel=2**-TIME_BITS)
