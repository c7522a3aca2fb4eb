"""CI2P-ViT: a vision transformer that reads an image codec's frozen code instead of patches of pixels.

Source: arXiv 2502.10120, with the authors' code for what the paper leaves open. `ci2p_vit` has 88,956,320 parameters
and 8.477 G multiply-adds at 256x256 without its head, `ci2p_vit_ds` 49,699,424 and 6.630 G (the paper's 6.442 G leaves
the attention products out). Not in the source, and assumed here: the initialisation (Xavier for linear layers,
He for convolutions).

The models they are compared with: `cnn_vit` is the control with the same layers, none of them frozen or pretrained;
`vit_b16_gap` is ViT-B/16 without a class token, which is how the paper counts its 23.127 G. ViT-B/16 with a class token
(23.221 G at 256) is timm's `vit_base_patch16_224`, ViT-B/32 timm's `vit_base_patch32_224`, both with
`model.image_size: 256`.

Weights: `model.weights` is what the encoder is frozen at. `pretrained` is the published codec; a path names a codec's
file (`g_a.*`), an encoder's own, or a whole CI2P-ViT. Everything else in the model then starts fresh, except from the
last of the three.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raybench.errors import ConfigError, WeightsError
from raybench.models.analysis_transform import STRIDE, AnalysisTransform
from raybench.models.codec import ANALYSIS, PUBLISHED, encoder_state, rgb_problems
from raybench.models.vit_small import POSITION_STD, Block, initialise

SQUEEZE = 4
"""Expanded channels a channel of the squeeze in squeeze-excitation."""
WIDEN_A, WIDEN_B = 4, 6
"""Expanded channels a channel of the code, in the two kinds of block of PatchReshape."""


class SqueezeExcitation(nn.Module):
    """Weighs each channel by what all channels are on average: Hu et al. 2018, with MobileNetV3's hard sigmoid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width // SQUEEZE, 1)
        self.expand = nn.Conv2d(width // SQUEEZE, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape."""
        weight = F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))  # (B, width / 4, 1, 1)
        return x * F.hardsigmoid(self.expand(weight))


class InvertedResidual(nn.Module):
    """Widen, mix each channel over its neighbourhood, weigh the channels, narrow; a residual where shapes agree.

    Source: Howard et al., "Searching for MobileNetV3" (2019), figure 4.
    """

    def __init__(self, width_in: int, expanded: int, width_out: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and width_in == width_out
        self.expand = nn.Sequential(
            nn.Conv2d(width_in, expanded, 1, bias=False), nn.BatchNorm2d(expanded), nn.Hardswish()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(expanded, expanded, kernel, stride, padding=kernel // 2, groups=expanded, bias=False),
            nn.BatchNorm2d(expanded),
            nn.Hardswish(),
        )
        self.excite = SqueezeExcitation(expanded)
        self.project = nn.Sequential(nn.Conv2d(expanded, width_out, 1, bias=False), nn.BatchNorm2d(width_out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) -> (B, width_out, H / stride, W / stride)."""
        out: Tensor = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + out if self.residual else out


class CI2P(nn.Module):
    """Encoder, PatchReshape, blocks without class token or positions, LayerNorm, mean over tokens, linear head.

    With `dual_scale` the first half of the blocks sees each place of the code as a token, before PatchReshape merges
    them two by two.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        dim: int,
        depth: int,
        heads: int,
        latent_heads: int,
        encoder_channels: int,
        latent_channels: int,
        drop_path_rate: float,
        fused_attention: bool,
        dual_scale: bool,
        frozen: bool,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.encoder = AnalysisTransform(encoder_channels, latent_channels)
        narrow = depth // 2 if dual_scale else 0
        wide, refined = WIDEN_A * latent_channels, 2 if dual_scale else 1
        self.refine = nn.Sequential(
            *(InvertedResidual(latent_channels, wide, latent_channels, kernel=3, stride=1) for _ in range(refined))
        )
        rates = [drop_path_rate * index / max(1, depth - 1) for index in range(depth)]
        self.latent_blocks = nn.Sequential(
            *(Block(latent_channels, latent_heads, rate, fused=fused_attention) for rate in rates[:narrow])
        )
        self.merge = InvertedResidual(latent_channels, WIDEN_B * latent_channels, dim, kernel=5, stride=2)
        self.blocks = nn.Sequential(*(Block(dim, heads, rate, fused=fused_attention) for rate in rates[narrow:]))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        for part in (self.refine, self.latent_blocks, self.merge, self.blocks, self.head):
            part.apply(_initialise)
        if frozen:
            self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> CI2P:
        """As of any module, but a frozen encoder stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] (B, 3, H, W) -> logits (B, num_classes)."""
        return self.decide(self.encode(x))

    def encode(self, x: Tensor) -> Tensor:
        """Images in [0, 1] (B, 3, H, W) -> code (B, M, H/16, W/16)."""
        # No gradient goes through a frozen encoder, so nothing is kept for one.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            code: Tensor = self.encoder(x)
        return code

    def decide(self, code: Tensor) -> Tensor:
        """Code (B, M, H/16, W/16) -> logits (B, num_classes)."""
        x = self.refine(code)  # (B, M, H/16, W/16)
        if len(self.latent_blocks):
            tokens = self.latent_blocks(_tokens(x))  # (B, HW/256, M)
            x = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        tokens = self.blocks(_tokens(self.merge(x)))  # (B, HW/1024, dim)
        logits: Tensor = self.head(self.norm(tokens).mean(dim=1))  # (B, num_classes)
        return logits


class PooledVisionTransformer(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) that averages its tokens instead of having one for the class."""

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        drop_path_rate: float,
        fused_attention: bool,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)
        self.pos_embed = nn.Parameter(torch.empty(1, (image_size // patch_size) ** 2, dim))
        rates = [drop_path_rate * index / max(1, depth - 1) for index in range(depth)]
        self.blocks = nn.Sequential(*(Block(dim, heads, rate, fused=fused_attention) for rate in rates))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, num_classes)
        nn.init.normal_(self.pos_embed, std=POSITION_STD)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images (B, in_channels, image_size, image_size) -> logits (B, num_classes)."""
        tokens = self.blocks(_tokens(self.patch_embed(x)) + self.pos_embed)  # (B, T, dim)
        logits: Tensor = self.head(self.norm(tokens).mean(dim=1))  # (B, num_classes)
        return logits


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, HW, C)


def _initialise(module: nn.Module) -> None:
    initialise(module)
    if isinstance(module, nn.Conv2d):
        # He et al. 2015, over the fan-out as MobileNets do: a depthwise kernel's fan-in knows nothing of its width.
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def ci2p(
    name: str,
    *,
    dual_scale: bool,
    frozen: bool,
    num_classes: int,
    in_channels: int,
    image_size: int = 256,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    latent_heads: int = 3,
    encoder_channels: int = 128,
    latent_channels: int = 192,
    drop_path_rate: float = 0.0,
    fused_attention: bool = True,
) -> CI2P:
    """CI2P-ViT of these numbers; the defaults are the paper's. Raises ConfigError where they do not fit each other.

    `encoder_channels` and `latent_channels` are N and M of the codec whose encoder it freezes; `latent_heads` are those
    of the blocks of width M, which only the dual scale has.
    """
    problems = rgb_problems(name, in_channels)
    problems += _size_problems(name, image_size, 2 * STRIDE, "PatchReshape halves the code, itself a 16th of the image")
    problems += _block_problems(name, dim, depth, heads, drop_path_rate)
    if min(encoder_channels, latent_channels) < 1:
        problems.append(f"model {name}: encoder_channels and latent_channels must be at least 1")
    if dual_scale and (latent_heads < 1 or latent_channels % latent_heads):
        problems.append(
            f"model {name}: latent_channels = {latent_channels} must be a multiple of latent_heads = {latent_heads}"
        )
    if dual_scale and depth % 2:
        problems.append(f"model {name}: depth = {depth} must be even, half of the blocks on each scale")
    if problems:
        raise ConfigError(problems)
    return CI2P(
        num_classes=num_classes,
        dim=dim,
        depth=depth,
        heads=heads,
        latent_heads=latent_heads,
        encoder_channels=encoder_channels,
        latent_channels=latent_channels,
        drop_path_rate=drop_path_rate,
        fused_attention=fused_attention,
        dual_scale=dual_scale,
        frozen=frozen,
    )


def vit_b16_gap(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int = 256,
    patch_size: int = 16,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    drop_path_rate: float = 0.0,
    fused_attention: bool = True,
) -> PooledVisionTransformer:
    """ViT-B/16 without a class token; the other defaults make it so. Raises ConfigError where numbers do not fit."""
    name = "vit_b16_gap"
    problems = _size_problems(name, image_size, patch_size, f"a patch is {patch_size} pixels wide")
    problems += _block_problems(name, dim, depth, heads, drop_path_rate)
    if problems:
        raise ConfigError(problems)
    return PooledVisionTransformer(
        num_classes=num_classes,
        in_channels=in_channels,
        image_size=image_size,
        patch_size=patch_size,
        dim=dim,
        depth=depth,
        heads=heads,
        drop_path_rate=drop_path_rate,
        fused_attention=fused_attention,
    )


def _size_problems(name: str, image_size: int, unit: int, why: str) -> list[str]:
    if unit >= 1 and image_size % unit == 0:
        return []
    return [f"model {name}: image_size = {image_size} must be a multiple of {unit}: {why}"]


def _block_problems(name: str, dim: int, depth: int, heads: int, drop_path_rate: float) -> list[str]:
    problems = []
    if heads < 1 or dim < 1 or dim % heads:
        problems.append(f"model {name}: dim = {dim} must be a multiple of heads = {heads}")
    if depth < 1:
        problems.append(f"model {name}: depth = {depth} must be at least 1")
    if not 0 <= drop_path_rate < 1:
        problems.append(f"model {name}: drop_path_rate = {drop_path_rate} must lie in [0, 1)")
    return problems


def whole_state(module: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """The state dict of a whole CI2P-ViT: the file's own, or the model's fresh one with the file's encoder in it.

    The encoder's file is that of a codec or of an encoder alone. Raises WeightsError for one of another width.
    """
    own = module.state_dict()
    wanted = {key.removeprefix("encoder."): value for key, value in own.items() if key.startswith("encoder.")}
    if any(key.startswith(ANALYSIS) for key in state):
        state = encoder_state(state, source)
    elif not state.keys() <= wanted.keys():
        return state
    first, last = "0.weight", "6.weight"
    if all(key in state and state[key].dim() for key in (first, last)):
        have, need = ((len(part[first]), len(part[last])) for part in (state, wanted))
        if have != need:
            raise WeightsError(
                f"{source}: its encoder has {have[0]} channels and a code of {have[1]}, the model {need[0]} and "
                f"{need[1]}; set model.options encoder_channels: {have[0]} and latent_channels: {have[1]}"
            )
    rest = {key: value for key, value in own.items() if not key.startswith("encoder.")}
    return rest | {f"encoder.{key}": value for key, value in state.items()}


MODELS: dict[str, Callable[..., nn.Module]] = {
    "ci2p_vit": partial(ci2p, "ci2p_vit", dual_scale=False, frozen=True),
    "ci2p_vit_ds": partial(ci2p, "ci2p_vit_ds", dual_scale=True, frozen=True),
    "cnn_vit": partial(ci2p, "cnn_vit", dual_scale=False, frozen=False),
    "vit_b16_gap": vit_b16_gap,
}
UNIT_INPUT = ("ci2p_vit", "ci2p_vit_ds", "cnn_vit")
FROZEN_ENCODERS = ("ci2p_vit", "ci2p_vit_ds")
PRETRAINED = dict.fromkeys(FROZEN_ENCODERS, PUBLISHED)
TRANSLATIONS = dict.fromkeys(UNIT_INPUT, whole_state)
