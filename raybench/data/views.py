"""Augmented images as pure functions of (image, view code): nothing here depends on batch order, workers or device.

Where `augment` names only `cropN` and `hflip`, views are numbered: a code is a number in mixed radix,
`((dy * (2p + 1)) + dx) * 2 + flip`: (dy, dx) in 0..2p is the offset of the crop in the image zero-padded by p pixels on
each side, flip mirrors left and right after the crop. Without `hflip` the factor 2 and the flip are absent; without a
crop p = 0. With any other word views are endless: a code is a hash of 63 bits, from which all that is random in the
view is drawn. The order in which `augment` names them does not matter: crop, flip, RandAugment, erasing.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F

from raybench.config.augmentation import Augmentation, parse
from raybench.data import hashing
from raybench.data.draws import Draws
from raybench.data.erasing import erase
from raybench.data.rand_augment import rand_augment
from raybench.data.resampling import centre_crop, crop_boxes, resize_boxes
from raybench.data.transfer import over
from raybench.errors import DataError

LARGEST_COUNT = 2**15
"""Codes are kept in 16 bits: crop63 with hflip is the largest augmentation."""
SLOTS = 2**20
"""Fixed endless views of an image are fewer than this."""
BLOCK = 256
"""Neighbouring images of a training part that show the same slot in an epoch, each its own view in it: a teacher is
then asked for whole batches of what an epoch needs, and for nothing else."""
TABLE_CHUNK = 2**21
"""Hashes in memory at once while a table of views is drawn (16 MiB)."""


def parsed(augment: tuple[str, ...]) -> Augmentation:
    """What the words mean. Raises DataError for those that mean nothing."""
    try:
        return parse(augment)
    except ValueError as error:
        raise DataError(str(error)) from None


def endless(augment: tuple[str, ...]) -> bool:
    """Whether the views cannot be numbered."""
    return parsed(augment).endless


def view_count(augment: tuple[str, ...]) -> int:
    """How many different views an image has: (2N+1)^2 for cropN, twice as many with hflip, 1 without augmentation.

    Raises DataError for an unknown augmentation, for one whose views are endless and for more views than 16 bits can
    number.
    """
    what = parsed(augment)
    if what.endless:
        raise DataError(
            f"augment = {list(augment)} has no end of views; set dataset.views to how many fixed ones each image has"
        )
    count = (2 * what.padding + 1) ** 2 * (2 if what.flip else 1)
    if count > LARGEST_COUNT:
        raise DataError(f"augment = {list(augment)} has {count} views; the most is {LARGEST_COUNT} (crop63)")
    return count


def plain_view(augment: tuple[str, ...]) -> int:
    """The code of the image as it is: centre of the padded image, not flipped. For views that are numbered."""
    what = parsed(augment)
    return (what.padding * (2 * what.padding + 1) + what.padding) * (2 if what.flip else 1)


def view_table(n_images: int, augment: tuple[str, ...], views: int) -> torch.Tensor:
    """The fixed views of every image: distinct codes, int16 (n_images, K); int64 where views are endless.

    views = K: the first K of a random permutation of all codes, drawn for each image from a hash of (image, code). So
    the table of 5 is a prefix of the table of 10, and a row depends on the image's number alone. All of numbered views
    need no table: see `turned_codes`.

    Raises DataError when K is more than `augment` allows.
    """
    if endless(augment):
        images = torch.arange(n_images).repeat_interleave(views)
        return fixed_codes(images, torch.arange(views).repeat(n_images), augment).view(n_images, views)
    total = view_count(augment)
    if not 1 <= views <= total:
        raise DataError(
            f'views = {views}: augment = {list(augment)} allows 1 to {total} views, or "all"; '
            "a wider crop or hflip allows more"
        )
    key = hashing.key("view", *sorted(augment))
    mask = (1 << (total - 1).bit_length()) - 1
    codes = torch.arange(total)
    table = torch.empty(n_images, views, dtype=torch.int16)
    rows = max(1, TABLE_CHUNK // total)
    for start in range(0, n_images, rows):
        stop = min(start + rows, n_images)
        counters = torch.arange(start, stop)[:, None] * LARGEST_COUNT + codes  # (rows, V)
        # The code in the low bits makes ties impossible, so the order is the same on every machine, and gives it back.
        ranks = (hashing.bits(counters, key) & ~mask) | codes
        table[start:stop] = (ranks.topk(views, dim=1).values & mask).to(torch.int16)
    return table


def turned_codes(indices: torch.Tensor, slots: torch.Tensor, augment: tuple[str, ...]) -> torch.Tensor:
    """The codes of these slots of these images where every view has its slot: int64 (B,).

    All codes in order, from another one on for each image (a hash of it), so that images in the same slot differ.
    """
    total = view_count(augment)
    turns = hashing.shift_right(hashing.bits(indices, hashing.key("turn", *sorted(augment))), 1)
    return (turns % total + slots) % total


def fixed_codes(indices: torch.Tensor, slots: torch.Tensor, augment: tuple[str, ...]) -> torch.Tensor:
    """The codes of endless views in these slots of these images: int64 (B,), a hash of (image, slot)."""
    key = hashing.key("view", *sorted(augment))
    return hashing.shift_right(hashing.bits(indices * SLOTS + slots, key), 1)


def fresh_codes(indices: torch.Tensor, epoch: int, seed: int) -> torch.Tensor:
    """The code of an endless view of each image for one epoch: int64 (B,), a hash of (seed, epoch, image)."""
    return hashing.shift_right(hashing.bits(indices, hashing.key("fresh view", seed, epoch)), 1)


def draw_slots(blocks: torch.Tensor, epoch: int, seed: int, views: int) -> torch.Tensor:
    """Which of their fixed views the images of each block show in an epoch: int64 (B,) in 0..views-1.

    blocks: int64 (B,), positions in the training part divided by `BLOCK`. A hash of (seed, epoch, block): the same in
    any batch, order or process. What a slot shows is drawn for each image by itself (`view_table`, `turned_codes`), so
    images of a block share a number, and a crop only by chance.
    """
    bits = hashing.bits(blocks, hashing.key("slot", seed, epoch))
    # The upper 32 bits scaled to 0..views-1; uneven by at most views / 2^32.
    return (hashing.shift_right(bits, 32) * views) >> 32


def epoch_order(n: int, epoch: int, seed: int) -> torch.Tensor:
    """The order of n training images in an epoch: an int64 permutation (n,), a function of (seed, epoch)."""
    generator = torch.Generator().manual_seed(hashing.key("order", seed, epoch))
    return torch.randperm(n, generator=generator)


def render(
    images: torch.Tensor,
    indices: torch.Tensor,
    codes: torch.Tensor,
    augment: tuple[str, ...],
    *,
    size: int | None = None,
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
) -> torch.Tensor:
    """The views `codes` of the images `indices`: uint8 (B, C, H, W), on the device of `images`.

    images: uint8 (N, C, H, W), contiguous. indices: int64 (B,), on the device of `images`. codes: integers (B,), each
    below `view_count(augment)` or, where views are endless, of 63 bits. `cropN` and `hflip` have the same bits as
    torchvision's zero-padded `crop`, then `hflip`.
    size: side in pixels of a view; `rrc` resizes its crop to it, anything else starts from the square in the middle.
    None keeps the size of the images. mean and std: of each channel of the data, pixels in [0, 1], for what erases and
    fills in; they may be left out where nothing does.
    """
    what = parsed(augment)
    batch = images.index_select(0, indices)  # (B, C, H, W)
    if what.smallest_crop is None and size is not None and size < min(batch.shape[2:]):
        batch = centre_crop(batch, size)
    if what.endless:
        return _endless(batch, codes, what, size, mean, std)
    codes = over(codes, batch.device).long()
    if what.padding:
        offsets = codes // 2 if what.flip else codes
        side = 2 * what.padding + 1
        batch = _crop(batch, offsets // side, offsets % side, what.padding)
    return _flip(batch, codes % 2) if what.flip else batch.contiguous()


def _endless(
    batch: torch.Tensor,
    codes: torch.Tensor,
    what: Augmentation,
    size: int | None,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> torch.Tensor:
    """All that an augmentation may hold, one after the other."""
    height, width = batch.shape[2:]
    if what.smallest_crop is not None:
        boxes = crop_boxes(codes, height, width, what.smallest_crop)
        batch = resize_boxes(batch, boxes, size or height, size or width)
    draws = Draws(codes, "crop and flip")
    if what.padding:
        dy, dx = (over(draws.below(2 * what.padding + 1, part), batch.device) for part in ("dy", "dx"))
        batch = _crop(batch, dy, dx, what.padding)
    if what.flip:
        batch = _flip(batch, over(draws.below(2, "flip"), batch.device))
    if what.rand is not None:
        batch = rand_augment(batch, codes, what.rand, mean)
    return erase(batch, codes, what.erasing, mean, std) if what.erasing else batch.contiguous()


def _crop(batch: torch.Tensor, dy: torch.Tensor, dx: torch.Tensor, padding: int) -> torch.Tensor:
    """Crops at (dy, dx) of the zero-padded batch. One gather of whole rows: 2 to 4 times as fast as one of pixels."""
    n, channels, height, width = batch.shape
    padded = F.pad(batch, (padding, padding, padding, padding)).flatten()
    padded_height, padded_width = height + 2 * padding, width + 2 * padding
    runs = padded.as_strided((padded.numel() - width + 1, width), (1, 1))  # every run of `width` pixels, without a copy
    device = batch.device
    planes = torch.arange(n * channels, device=device).view(n, channels, 1) * padded_height
    rows = planes + torch.arange(height, device=device) + dy[:, None, None]  # (B, C, H)
    starts = rows * padded_width + dx[:, None, None]
    return runs.index_select(0, starts.flatten()).view(n, channels, height, width)


def _flip(batch: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Mirror the images where flips (B,) is 1. Choosing whole images is faster than `torch.where` on bytes."""
    n = len(batch)
    both = torch.cat([batch, batch.flip(3)])  # (2B, C, H, W)
    return both.index_select(0, torch.arange(n, device=batch.device) + flips * n)


def normalise(
    batch: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...], size: int | None = None
) -> torch.Tensor:
    """uint8 (B, C, H, W) to what a model sees: float32 (B, C, size, size).

    Pixels to [0, 1], resized bilinearly when `size` (pixels) differs from theirs, then (x - mean) / std by channel.

    Raises DataError when mean or std has not one value a channel.
    """
    channels = batch.shape[1]
    if not len(mean) == len(std) == channels:
        raise DataError(
            f"images of {channels} channels need as many values of mean and std; given are mean = {mean}, std = {std}"
        )
    pixels = batch.float().div_(255)
    if size is not None and tuple(pixels.shape[2:]) != (size, size):
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", align_corners=False, antialias=False)
    centre, spread = _channel_values(mean, batch.device), _channel_values(std, batch.device)
    return pixels.sub_(centre).div_(spread)


@lru_cache(maxsize=64)
def _channel_values(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """(C, 1, 1) on the device; kept, because a copy to a GPU in every batch would stall it."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
