"""Token merging: against a second implementation in plain loops, and by its identities."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from raybench.errors import ConfigError
from raybench.models import tome
from raybench.models.tome import (
    R,
    bipartite_soft_matching,
    merge_source,
    merge_wavg,
    parse_r,
    prefix_matching,
    proportional_attention,
)

torch.set_num_threads(1)

KINDS = list(product((False, True), (False, True)))
"""With and without a class token and a distillation token."""
SHAPES = [(1, 2, 3), (2, 3, 4), (2, 4, 4), (3, 5, 2), (2, 16, 6), (2, 17, 6), (1, 50, 8)]
"""(B, T, C)."""


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def groups_by_loops(metric: Tensor, r: int, protected: set[int]) -> list[list[int]]:
    """Of one image (T, C): the input tokens of every output token, in the order of the output. No tensors in it."""
    rows = metric.tolist()
    even, odd = list(range(0, len(rows), 2)), list(range(1, len(rows), 2))
    pairs = []
    for a in even:
        partners = [(cosine(rows[a], rows[b]), b) for b in odd if b not in protected]
        if a not in protected and partners:
            similarity, b = max(partners)
            pairs.append((similarity, a, b))
    pairs.sort(reverse=True)
    goes_to = {a: b for _, a, b in pairs[: max(0, min(r, (len(rows) - len(protected)) // 2))]}
    if not goes_to:
        return [[token] for token in range(len(rows))]
    joined = {b: [b, *(a for a in even if goes_to.get(a) == b)] for b in odd}
    # The most similar first, unless a class token is among them.
    staying = [a for a in even if a not in goes_to] if 0 in protected else [a for _, a, _ in pairs if a not in goes_to]
    order = staying + odd
    for place in sorted(protected):
        order.remove(place)
        order.insert(place, place)
    return [joined.get(token, [token]) for token in order]


def by_loops(x: Tensor, groups: list[list[int]], mode: str) -> Tensor:
    rows = []
    for group in groups:
        members = x[group]
        rows.append({"mean": members.mean(0), "sum": members.sum(0), "amax": members.amax(0)}[mode])
    return torch.stack(rows)


@pytest.mark.parametrize(("class_token", "distill_token"), KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("r", [1, 2, 3, 7, 100])
def test_against_plain_loops(shape: tuple[int, int, int], r: int, class_token: bool, distill_token: bool) -> None:
    metric, x = normal(*shape, seed=r), normal(shape[0], shape[1], 5, seed=r + 1)
    protected = {token for token, is_protected in enumerate((class_token, distill_token)) if is_protected}
    merge, unmerge = bipartite_soft_matching(metric, r, class_token, distill_token)
    groups = [groups_by_loops(image, r, protected) for image in metric]
    for mode in ("mean", "sum", "amax"):
        wanted = torch.stack([by_loops(image, found, mode) for image, found in zip(x, groups, strict=True)])
        torch.testing.assert_close(merge(x, mode), wanted, rtol=0, atol=1e-12)  # float64, sums in another order
    merged = merge(x)
    assert torch.equal(merged, merge(x, "mean"))
    spread = torch.empty_like(x)
    for image, found in enumerate(groups):
        for place, group in enumerate(found):
            spread[image, group] = merged[image, place]
    assert torch.equal(unmerge(merged), spread)


@pytest.mark.parametrize(("class_token", "distill_token"), KINDS)
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 9, 64, 65])
@pytest.mark.parametrize("r", [0, -3, 1, 5, 1000])
def test_invariants(tokens: int, r: int, class_token: bool, distill_token: bool) -> None:
    x = normal(2, tokens, 6, dtype=torch.float32)
    clipped = max(0, min(r, (tokens - class_token - distill_token) // 2))
    if distill_token and tokens in (2, 3):
        clipped = 0  # the distillation token is the only one in B
    merge, unmerge = bipartite_soft_matching(x, r, class_token, distill_token)
    merged, size = merge_wavg(merge, x)
    source = merge_source(merge, x)
    assert merged.shape == (2, tokens - clipped, 6)
    assert size.shape == (2, tokens - clipped, 1)
    assert torch.equal(size.sum(1), torch.full((2, 1), float(tokens)))
    assert torch.equal(source.sum(1), torch.ones(2, tokens))  # each input token in one output token
    assert torch.equal(source.sum(2, keepdim=True), size)
    restored = unmerge(merged)
    assert restored.shape == x.shape
    alone = unmerge(size)[..., 0] == 1
    assert torch.equal(restored[alone], x[alone])
    for image in range(2):
        for members in source[image].bool():
            assert (restored[image][members] == restored[image][members][:1]).all()


def test_nothing_to_merge_is_the_identity() -> None:
    x = normal(2, 9, 4)
    for r in (0, -1):
        merge, unmerge = bipartite_soft_matching(x, r, class_token=True)
        assert merge(x) is x
        assert merge(x, mode="amax") is x
        assert unmerge(x) is x


def test_several_a_tokens_meet_in_one_b_token() -> None:
    metric = torch.tensor([[[1.0, 0], [1, 0], [1, 0.1], [0, 1], [1, 0.2], [-1, 0]]])
    x = torch.tensor([[[1.0], [2], [4], [8], [16], [32]]])
    merge, unmerge = bipartite_soft_matching(metric, 3)
    assert merge(x, "mean").flatten().tolist() == pytest.approx([(1 + 2 + 4 + 16) / 4, 8, 32])  # all of them, B too
    assert merge(x, "sum").flatten().tolist() == [23, 8, 32]
    assert merge(x, "amax").flatten().tolist() == [16, 8, 32]
    assert unmerge(merge(x, "sum")).flatten().tolist() == [23, 23, 23, 8, 23, 32]
    weighted, size = merge_wavg(merge, x, torch.tensor([[[1.0], [2], [3], [1], [2], [1]]]))
    assert weighted.flatten().tolist() == pytest.approx([(1 + 2 * 2 + 3 * 4 + 2 * 16) / 8, 8, 32])
    assert size.flatten().tolist() == [8, 1, 1]


def test_the_order_of_the_output() -> None:
    metric = normal(1, 10, 4)
    metric[0, 4] = metric[0, 7]  # cosine 1: the pair that merges
    labels = torch.arange(10.0)[None, :, None]
    # Without a class token the staying A tokens come most similar first: the next block's halves depend on it.
    unit = torch.nn.functional.normalize(metric[0], dim=-1)

    def falling(partners: list[int]) -> list[int]:
        return sorted((0, 2, 6, 8), key=lambda a: -float((unit[a] @ unit[partners].mT).max()))

    free = falling([1, 3, 5, 7, 9])
    assert free != [0, 2, 6, 8]
    first, *rest = falling([3, 5, 7, 9])
    orders = [
        ((False, False), [*free, 1, 3, 5, 7, 9]),
        ((True, False), [0, 2, 6, 8, 1, 3, 5, 7, 9]),
        ((True, True), [0, 1, 2, 6, 8, 3, 5, 7, 9]),
        ((False, True), [first, 1, *rest, 3, 5, 7, 9]),
    ]
    for (class_token, distill_token), wanted in orders:
        merge, _ = bipartite_soft_matching(metric, 1, class_token, distill_token)
        assert merge(labels, "amax").flatten().tolist() == wanted


@pytest.mark.parametrize(("class_token", "distill_token"), [(True, False), (True, True)])
@pytest.mark.parametrize("tokens", [8, 9])
@pytest.mark.parametrize("kind", ["all the same", "duplicates of the protected", "zero", "nan"])
def test_class_and_distillation_tokens_never_merge(
    kind: str, tokens: int, class_token: bool, distill_token: bool
) -> None:
    metric = normal(2, tokens, 4, dtype=torch.float32)
    if kind == "all the same":
        metric[:] = metric[:, :1]
    elif kind == "duplicates of the protected":
        metric[:, 1] = metric[:, 0]  # the two, each in the other's half
        metric[:, 2:4] = metric[:, :1]
    else:
        metric[:] = 0.0 if kind == "zero" else float("nan")
    x = normal(2, tokens, 3, dtype=torch.float32)
    source, size = None, None
    merged = x
    for _ in range(4):  # as far as it goes
        merge, _ = bipartite_soft_matching(metric[:, : merged.shape[1]], 100, class_token, distill_token)
        source = merge_source(merge, merged, source)
        merged, size = merge_wavg(merge, merged, size)
    protected = class_token + distill_token
    assert source is not None
    assert size is not None
    assert merged.shape[1] < tokens
    assert torch.equal(merged[:, :protected], x[:, :protected])
    assert torch.equal(size[:, :protected], torch.ones(2, protected, 1))
    assert torch.equal(source[:, :protected], torch.eye(tokens)[:protected].expand(2, -1, -1))


@pytest.mark.parametrize("prefix", [0, 1, 2, 3, 5, 6])
@pytest.mark.parametrize("tokens", [7, 20, 21])
def test_a_prefix_of_any_length_stays_in_front(prefix: int, tokens: int) -> None:
    metric = normal(2, 1, 4).expand(-1, tokens, -1)  # all equal: every token would merge
    x = normal(2, tokens, 3)
    merge, unmerge = prefix_matching(metric, 100, prefix)
    merged = merge(x)
    assert merged.shape[1] == tokens - (tokens - prefix) // 2
    assert torch.equal(merged[:, :prefix], x[:, :prefix])
    assert torch.equal(unmerge(merged)[:, :prefix], x[:, :prefix])
    if prefix in (1, 2):
        same, _ = bipartite_soft_matching(metric, 100, class_token=True, distill_token=prefix == 2)
        assert torch.equal(same(x), merged)


def test_sizes_and_sources_compose_over_blocks() -> None:
    x = merged = normal(2, 41, 5)
    size = source = None
    for block in range(4):
        merge, _ = bipartite_soft_matching(merged + normal(*merged.shape, seed=block), 6, class_token=True)
        source = merge_source(merge, merged, source)
        merged, size = merge_wavg(merge, merged, size)
    assert size is not None
    assert source is not None
    assert merged.shape == (2, 41 - 24, 5)
    assert source.shape == (2, 41 - 24, 41)
    assert torch.equal(source.sum(2, keepdim=True), size)
    # Weighted by size, means of means are the mean of all tokens that went in; float64, another order of sums.
    torch.testing.assert_close(merged, source.double() @ x / size, rtol=0, atol=1e-12)


def test_similarity_is_float32_under_autocast_and_sizes_count_beyond_256() -> None:
    metric = normal(2, 64, 8, dtype=torch.float32)
    metric[:, 1:] = metric[:, :1] + 1e-3 * metric[:, 1:]  # cosines that bfloat16 cannot tell apart
    x = normal(2, 64, 4, dtype=torch.float32)
    alone = bipartite_soft_matching(metric, 8)[0](x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bipartite_soft_matching(metric, 8)[0](x), alone)
    assert not torch.equal(bipartite_soft_matching(metric.bfloat16(), 8)[0](x), alone)
    merge, _ = bipartite_soft_matching(torch.ones(1, 4, 2), 2)
    merged, size = merge_wavg(merge, torch.ones(1, 4, 2, dtype=torch.bfloat16), torch.full((1, 4, 1), 257.0))
    assert (merged.dtype, size.dtype) == (torch.bfloat16, torch.float32)
    assert size.flatten().tolist() == [3 * 257, 257]
    assert torch.equal(merged, torch.ones_like(merged))


def test_gradients_pass_through_merging() -> None:
    metric = normal(1, 9, 4)
    x = normal(1, 9, 3).requires_grad_()
    merge, unmerge = bipartite_soft_matching(metric, 3, class_token=True)
    assert torch.autograd.gradcheck(lambda tokens: merge_wavg(merge, tokens)[0], x)
    assert torch.autograd.gradcheck(lambda tokens: unmerge(merge(tokens)), x)


@pytest.mark.parametrize("fused", [True, False])
def test_a_token_of_size_s_counts_as_s_tokens(fused: bool) -> None:
    # The identity behind log(size): attention over merged duplicates is attention over the duplicates.
    counts = torch.tensor([1, 3, 2, 1, 5])
    q, k, v = (normal(2, 3, 5, 8, seed=seed) for seed in range(3))
    size = counts.double()[None, :, None].expand(2, 5, 1)
    merged = proportional_attention(q, k, v, size, scale=8**-0.5, fused=fused)
    many_k, many_v = (tensor.repeat_interleave(counts, dim=2) for tensor in (k, v))
    plain = proportional_attention(q, many_k, many_v, None, scale=8**-0.5, fused=fused)
    torch.testing.assert_close(merged, plain, rtol=0, atol=1e-12)  # float64
    assert (merged - proportional_attention(q, k, v, None, scale=8**-0.5, fused=fused)).abs().max() > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_fused_and_plain_proportional_attention(seed: int) -> None:
    q, k, v = (normal(2, 3, 50, 16, seed=10 * seed + part, dtype=torch.float32) for part in range(3))
    size = torch.randint(1, 30, (2, 50, 1), generator=torch.Generator().manual_seed(seed)).float()
    for given in (None, size):
        fused = proportional_attention(q, k, v, given, scale=0.25, fused=True)
        plain = proportional_attention(q, k, v, given, scale=0.25, fused=False)
        torch.testing.assert_close(fused, plain, rtol=0, atol=2e-6)  # float32, logits to about 10; facts, section 3


@pytest.mark.parametrize("head_dim", [6, 8, 64])
def test_a_gpu_has_numbers_of_channels_that_its_fused_kernels_take(head_dim: int) -> None:
    q, k, v = (normal(2, 3, 20, head_dim, seed=seed) for seed in range(3))
    size = torch.randint(1, 30, (2, 20, 1), generator=torch.Generator().manual_seed(0)).double()
    here = proportional_attention(q, k, v, size, scale=0.25)
    wide = tome.with_sizes(q, k, v, size, 0.25)
    assert {each.shape[-1] % 8 for each in wide} == {0}
    assert {each.shape[-1] - head_dim for each in wide} <= set(range(1, 9))
    there = F.scaled_dot_product_attention(*wide, scale=0.25)
    assert not there[..., head_dim:].any()
    torch.testing.assert_close(there[..., :head_dim], here, rtol=0, atol=1e-12)  # float64


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_tokens_keep_the_kernels_without_a_matrix_of_products(dtype: torch.dtype) -> None:
    q, k, v = (normal(2, 3, 50, 64, seed=seed, dtype=torch.float32).to("cuda", dtype) for seed in range(3))
    size = torch.ones(2, 50, 1, device="cuda")
    kernel = SDPBackend.EFFICIENT_ATTENTION if dtype == torch.float32 else SDPBackend.FLASH_ATTENTION
    with sdpa_kernel(kernel):  # RuntimeError where it does not take these channels
        proportional_attention(q, k, v, size, scale=0.125)


# Shared facts, section 3: schedules for 12 blocks.
@pytest.mark.parametrize(
    ("r", "wanted"),
    [
        (8, [8] * 12),
        (0, [0] * 12),
        ((8, -1), [16, 14, 13, 11, 10, 8, 7, 5, 4, 2, 1, 0]),
        ((8, 1), [0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16]),
        ((8, 0), [8] * 12),
        ([10, 5], [10, 5] + [0] * 10),
        ([], [0] * 12),
        (list(range(12)), list(range(12))),
    ],
)
def test_schedules(r: R, wanted: list[int]) -> None:
    assert parse_r(12, r) == wanted


# The first number is cut, and the line runs through the mean r from there.
@pytest.mark.parametrize(
    ("depth", "r", "wanted"),
    [
        (12, (13, -0.5), [19, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7]),  # from 19.5: 19 to 2 * 13 - 19 = 7
        (12, (8, 0.9), [0, 1, 2, 4, 5, 7, 8, 10, 11, 13, 14, 16]),  # from 0.8: 0 to 16
        (3, (10, 0.1), [9, 10, 11]),
    ],
)
def test_a_schedule_keeps_the_mean(depth: int, r: R, wanted: list[int]) -> None:
    assert parse_r(depth, r) == wanted


def test_schedules_of_one_block_and_of_a_list() -> None:
    assert parse_r(1, (8, -1)) == [8]
    given = [1, 2]
    assert parse_r(3, given) == [1, 2, 0]
    assert given == [1, 2]


@pytest.mark.parametrize(
    ("r", "words"),
    [
        ([1, 2, 3], r"r = \[1, 2, 3\] has 3 numbers, the model 2 blocks"),
        ((8, 1.5), r"the inflection 1.5 must lie in \[-1, 1\]"),
        ((8, 1, 1), r"must be a whole number, a pair"),
        ([1.5], "must be a whole number, a pair"),
        (True, "must be a whole number, a pair"),
        (2.0, "must be a whole number, a pair"),
        ("8", "must be a whole number, a pair"),
    ],
)
def test_schedules_that_make_no_sense(r: R, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_r(2, r)
