"""How many trials run at a time, by arithmetic that is Ray's own; and how many share a GPU."""

from __future__ import annotations

import pytest

from raybench.config.placement import CONTEXT_MIB, MARGIN, Node, Share, at_a_time, gpu_share, lack, pack, room

A100 = frozenset({"A100"})
SMALL = Node("small", cpu=4, gpu=1)
LARGE = Node("large", cpu=64, gpu=8, kinds=A100)
HEAD = Node("head", cpu=8)


@pytest.mark.parametrize(
    ("share", "node", "expected"),
    [
        (Share(), SMALL, 4),
        (Share(cpu=3), SMALL, 1),
        (Share(cpu=5), SMALL, 0),
        (Share(cpu=0.5), SMALL, 8),
        (Share(cpu=0.1), SMALL, 40),  # 4.0 // 0.1 is 39
        (Share(gpu=1), SMALL, 1),
        (Share(gpu=1), HEAD, 0),
        (Share(gpu=0.5), LARGE, 16),
        (Share(gpu=0.1), LARGE, 64),  # 80 by their GPUs
        (Share(cpu=0.5, gpu=0.1), LARGE, 80),
        (Share(gpu=0.6), LARGE, 8),  # of each GPU 0.4 is left over, and two of these make no third trial
        (Share(gpu=0.3), LARGE, 24),
        (Share(gpu=1 / 3), LARGE, 24),  # Ray counts 0.3333
        (Share(gpu=1 / 6), LARGE, 40),  # and 0.1667, of which six are more than one
        (Share(cpu=32, gpu=1), LARGE, 2),
        (Share(gpu=1, kind="A100"), LARGE, 8),
        (Share(gpu=1, kind="A100"), SMALL, 0),
    ],
)
def test_room_on_a_node(share: Share, node: Node, expected: int) -> None:
    assert room(node, share) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (Share(gpu=1), 9),
        (Share(gpu=1, workers=4), 2),  # nine places, and one is left over
        (Share(gpu=1, workers=9), 1),  # over both nodes
        (Share(gpu=1, workers=10), 0),
        (Share(cpu=4), 1 + 16 + 2),  # CPUs of one node are no use to another
        (Share(cpu=64), 1),
    ],
)
def test_trials_at_a_time_on_unlike_nodes(share: Share, expected: int) -> None:
    nodes = [SMALL, LARGE, HEAD]
    assert at_a_time(nodes, share) == expected
    assert (lack(nodes, share) is None) == (expected > 0)


@pytest.mark.parametrize(
    ("share", "says"),
    [
        (Share(cpu=65), "resources.cpu = 65 and resources.gpu = 0: no node has so many (nodes: 2 x 4 CPU and 1 GPU; "),
        (Share(gpu=1, workers=11), "11 with resources.cpu = 1 and resources.gpu = 1 each: there is room for 10"),
        (Share(gpu=1, kind="A10G"), "resources.accelerator_type = A10G: no node has such a GPU"),
        (Share(gpu=1, kind="A1000"), "did you mean A100?"),
    ],
)  # fmt: skip
def test_what_can_never_run_is_said(share: Share, says: str) -> None:
    assert says in str(lack([SMALL, SMALL, LARGE], share))


def test_equal_nodes_are_said_once() -> None:
    assert "(nodes: 3 x 4 CPU and 1 GPU)" in str(lack([SMALL] * 3, Share(cpu=5)))
    assert "(nodes: none)" in str(lack([], Share()))


@pytest.mark.parametrize("trials", range(1, 65))
def test_a_share_is_that_of_so_many_and_no_more(trials: int) -> None:
    node = Node("any", cpu=1000, gpu=1)
    assert room(node, Share(gpu=gpu_share(trials))) == trials
    assert room(node, Share(gpu=gpu_share(trials) + 1e-4)) < trials


def test_as_many_are_packed_as_fit_with_a_margin() -> None:
    peak = 2000.0
    needed = peak * (1 + MARGIN) + CONTEXT_MIB
    for trials in (1, 2, 3, 7):
        assert pack(peak, trials * needed).trials == trials
        assert pack(peak, (trials + 1) * needed - 1).trials == trials
    packed = pack(peak, 3 * needed)
    assert packed.gpu == pytest.approx(0.3333)
    assert packed.limit_mib == pytest.approx(peak * (1 + MARGIN))
    assert packed.fits


def test_a_trial_that_is_too_large_has_the_gpu_to_itself() -> None:
    packed = pack(9000.0, 8000.0)
    assert (packed.trials, packed.gpu, packed.fits) == (1, 1.0, False)
