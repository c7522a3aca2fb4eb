"""What a GPU draws: its counter, read through a stand-in for NVML, and what becomes of it in rows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from raybench.config.trial import TrialConfig
from raybench.results.schema import Status
from raybench.results.store import Store
from raybench.training.device import choose_device
from raybench.training.energy import counter_of, drawn, nvml_counter, unknown
from raybench.training.trial import run_trial

if TYPE_CHECKING:
    from conftest import Digits  # type: ignore[import-not-found]

UUID = "GPU-7d3b5cbd-0000-0000-0000-000000000001"
STEP_WH = 0.25


class FakeNvml:
    """pynvml of one GPU whose counter rises by `STEP_WH` with each reading."""

    class NVMLError(Exception):
        """As pynvml names it."""

    def __init__(self, *broken: str) -> None:
        self.broken = {*broken}
        self.begun = False
        self.millijoules = 5_000_000_000

    def nvmlInit(self) -> None:  # noqa: N802
        self._check("init")
        self.begun = True

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        self._check("handle")
        assert self.begun
        if uuid != UUID:
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        self._check("energy")
        assert handle == "handle"
        self.millijoules += int(STEP_WH * 3_600_000)
        return self.millijoules

    def _check(self, what: str) -> None:
        if what in self.broken:
            raise self.NVMLError(what)


def test_the_counter_is_that_of_the_gpu_in_watt_hours() -> None:
    read = nvml_counter(FakeNvml(), UUID)
    assert drawn(read(), read()) == pytest.approx(STEP_WH)


@pytest.mark.parametrize("broken", ["init", "handle", "energy"])
def test_a_device_without_a_counter_has_no_energy(broken: str) -> None:
    assert nvml_counter(FakeNvml(broken), UUID) is unknown
    assert nvml_counter(FakeNvml(), "GPU-of-another-machine") is unknown


def test_a_counter_that_fails_later_ends_no_trial() -> None:
    nvml = FakeNvml()
    read = nvml_counter(nvml, UUID)
    before = read()
    nvml.broken.add("energy")
    assert before is not None
    assert drawn(before, read()) is None


@pytest.mark.parametrize(
    ("before", "after", "energy"), [(1.0, 3.5, 2.5), (2.0, 2.0, 0.0), (5.0, 1.0, None), (None, 1.0, None)]
)
def test_energy_is_between_two_readings(before: float | None, after: float | None, energy: float | None) -> None:
    assert drawn(before, after) == energy


def test_a_cpu_and_a_machine_without_the_package_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert counter_of(torch.device("cpu")) is unknown
    assert choose_device("fp32", 0).energy() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert counter_of(torch.device("cuda")) is unknown


def test_the_energy_of_a_trial_is_that_of_its_epochs_those_before_an_interruption_too(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raybench.training.device.counter_of", lambda _: nvml_counter(FakeNvml(), UUID))
    trial = digits.trial()
    assert run_trial(trial, digits.setup(tmp_path), until=2).status == Status.RUNNING
    assert run_trial(trial, digits.setup(tmp_path)).status == Status.COMPLETE
    store = Store(tmp_path)
    assert store.epochs([trial.trial_id], ["energy"])["energy"].to_list() == [STEP_WH] * 3
    assert digits.row(tmp_path, trial)["energy"] == pytest.approx(3 * STEP_WH)


def test_a_trial_of_which_a_part_was_not_measured_has_no_energy(
    digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = digits.trial()
    run_trial(trial, digits.setup(tmp_path), until=1)
    monkeypatch.setattr("raybench.training.device.counter_of", lambda _: nvml_counter(FakeNvml(), UUID))
    run_trial(trial, digits.setup(tmp_path))
    energies = Store(tmp_path).epochs([trial.trial_id], ["energy"])["energy"].to_list()
    assert energies == [None, STEP_WH, STEP_WH]
    assert digits.row(tmp_path, trial)["energy"] is None


def test_on_a_cpu_the_columns_are_there_and_empty(digits: Digits, finished: Callable[[TrialConfig], Path]) -> None:
    trial = digits.trial()
    folder = finished(trial)
    assert digits.row(folder, trial)["energy"] is None
    assert Store(folder).epochs([trial.trial_id])["energy"].null_count() == 3


@pytest.mark.gpu
def test_a_gpu_counts_what_it_draws() -> None:
    pytest.importorskip("pynvml")
    read = counter_of(torch.device("cuda"))
    before = read()
    a = torch.randn(4096, 4096, device="cuda")
    for _ in range(2000):
        a = (a @ a).tanh()
    torch.cuda.synchronize()
    energy = drawn(before, read())
    assert energy is not None
    assert energy > 0
