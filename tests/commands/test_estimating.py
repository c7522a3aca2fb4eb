"""The estimate of a plan: where it comes from, what it says, and what became of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from raybench.commands import estimating
from raybench.commands.estimating import Estimate, Truth, estimate, estimate_lines
from raybench.commands.loading import Asked, load
from raybench.commands.sweeping import Sweep
from raybench.config.costs import TrialCost
from raybench.config.price import Price
from raybench.errors import RaybenchError
from raybench.training.cost import HAND_OVER_S, START_S
from raybench.training.probing import Probed

if TYPE_CHECKING:
    from .conftest import Settled


def loaded(settled: Settled) -> Sweep:
    return load(Asked(str(settled.file), "quick", results=str(settled.results), dry_run=True))


@pytest.fixture
def probed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every model takes 0.01 s an image, and is probed in no process at all."""
    asked: list[str] = []

    def probe(question: str) -> Probed:
        asked.append(json.loads(question)["trial"]["model"]["name"])
        return Probed(0.01, 0.002, 700.0)

    monkeypatch.setattr(estimating, "probe_apart", probe)
    return asked


def test_each_distinct_model_is_probed_once(settled: Settled, probed: list[str]) -> None:
    sweep = loaded(settled)
    cost = estimate(sweep, probe=True, price=Price(2.0, "--price-per-hour"))
    # The student alone, the student with kept logits, the teacher.
    assert sorted(probed) == ["resnet8", "resnet8", "vit_micro_patch2_8"]
    epoch = 60 * 0.01 + 100 * 0.002
    trial = 4 * epoch + 500 * 0.002 + 0.2 + HAND_OVER_S
    teacher = sum(cost.teachers.values())
    assert teacher > 0
    assert cost.wall_s == pytest.approx(START_S + teacher + trial * 8 / sweep.width)
    assert cost.memory is not None
    assert (cost.memory.trial, cost.memory.trials) == (700.0, sweep.width)
    text = "\n".join(estimate_lines(cost))
    assert "estimated from a probe of a few steps: resnet8, vit_micro_patch2_8" in text
    assert f"cost {2 * cost.device_hours:.2f} at 2 a device-hour (--price-per-hour)" in text
    assert f"memory {sweep.width} x 700 MiB of " in text


def test_a_model_that_cannot_be_probed_stops_the_plan(settled: Settled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "probe_apart", lambda _: Probed(fault="out of memory: 7 GiB more"))
    with pytest.raises(RaybenchError, match=r"probe of model .* on digits: out of memory: 7 GiB more"):
        estimate(loaded(settled), probe=True)


def test_rows_come_before_a_probe_and_are_counted(settled: Settled, probed: list[str]) -> None:
    alone, taught = settled.halves()
    settled.settle([alone[0], taught[0]], **settled.took(2.4, 1.0))
    sweep = loaded(settled)
    cost = estimate(sweep, probe=True)
    assert probed == ["vit_micro_patch2_8"]
    assert cost.sources == ("2 stored trials on this hardware: resnet8", "a probe of a few steps: vit_micro_patch2_8")
    trial = 3.4 + 2.0 + HAND_OVER_S
    assert cost.device_hours == pytest.approx(
        (sum(cost.teachers.values()) + 6 * trial * min(1.0, 1 / (sweep.machines.nodes[0].cpu))) / 3600
    )


def test_the_plan_says_it_and_so_do_its_events(settled: Settled) -> None:
    settled.settle(settled.halves()[0], **settled.took(2.4, 1.0))
    _, out, _ = settled.run("--dry-run", "--price-per-hour", "3")
    assert "estimated from 4 stored trials on this hardware: resnet8" in out
    assert "at 3 a device-hour (--price-per-hour)" in out
    assert "· memory " in out
    _, out, _ = settled.run("--dry-run", "--log-json")
    plan = json.loads(out.splitlines()[0])
    assert plan["sources"][0] == "4 stored trials on this hardware: resnet8"
    assert plan["sources"][1].startswith("a rough timing of one batch")
    assert plan["memory_mib"] == 600.0
    assert plan["cost"] is None
    assert plan["disk_mib"] > 0


def test_of_what_is_settled_nothing_is_estimated(settled: Settled) -> None:
    settled.settle(settled.plan().trials())
    code, out, _ = settled.run("--dry-run")
    assert code == 0
    assert "nothing due" in out
    assert "disk" not in out


def test_a_bad_price_is_refused_before_anything_is_read(settled: Settled) -> None:
    with pytest.raises(SystemExit) as stopped:
        settled.run("--price-per-hour", "-1")
    assert stopped.value.code == 2


def test_the_truth_stands_beside_the_estimate() -> None:
    cost = Estimate(lambda _: TrialCost("a kind", 0.0, 0.0), wall_s=50.0, device_hours=0.01, sources=("a probe",))
    truth = Truth(cost, 75.0, 0.012, [(float(at), 500.0 - at) for at in range(500)])
    assert str(truth) == "estimated 50 s and 0.01 device-hours, took 75 s (1.50 times as long) and 0.012"
    record = truth.record()
    assert (record["wall_s"], record["took_s"], record["ratio"]) == (50.0, 75.0, 1.5)
    assert record["sources"] == ["a probe"]
    assert record["left"][0] == [0.0, 500.0]
    assert 90 <= len(record["left"]) <= 110
