"""Which images are copies of each other, however they were compressed, scaled or slightly cropped.

The resemblance of two images is measured on their perceptual thumbnails (32 x 32 pixels): the second is aligned with a
crop of the first, by at most an eighth of each side, and the details of both (bands of a few pixels) are correlated. It
is 1 for equal images and near 0 for unrelated ones, whatever their brightness and contrast. An image whose colours
differ does not resemble the first: it gets 0.

Aligning all pairs would take too long. Candidates are found by exact search, first among 49-dimensional descriptors of
each image and of ten regions of each, then among 256-dimensional descriptors of the details.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wordsight.image import PERCEPTUAL_PX
from wordsight.parallel import ordered_map

Floats = NDArray[np.floating[Any]]

_COARSE_PX, _DETAIL_PX, _ALIGNED_PX = 7, 16, 24
# Both limits are low: on the images with which they were chosen, 0.5 % of the copies fall below either.
_MIN_COARSE, _MIN_DETAIL = 0.92, 0.4
_MIN_CONTRAST = 2.0  # standard deviation in grey levels; a nearly uniform image resembles nothing
_MAX_COLOUR_DIFFERENCE = 12.0  # root mean square of both colour differences, in levels of 255

_REGIONS = [(0.0, 0.0, 1.0), *((left, top, 0.9) for top in (0.0, 0.05, 0.1) for left in (0.0, 0.05, 0.1))]
"""Left, top and side of the regions whose descriptors are compared with those of whole images."""

_SOFT, _WIDE = (1, 2, 1), (1, 2, 3, 2, 1)  # blurs; their difference is the band of details
_NUM_STEPS = 5
_MAX_STEP, _MIN_SIDE, _MAX_SIDE, _SLACK = 0.06, 0.8, 1.02, 0.01
_ROWS_PER_BLOCK, _COLUMNS_PER_TILE = 256, 512
_PAIRS_PER_BATCH = 512


class Candidates(NamedTuple):
    """Pairs of images of which the second may be a copy of a region of the first.

    Attributes:
        first, second: (P,) indices.
        region: (P,) index of the region that correlates best.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    region: NDArray[np.int64]


class Resemblance:
    """Finds and measures resemblances among images.

    Memory: 4.5 kB per image, and 60 MB.

    Args:
        pixels: (N, 32, 32, 3) uint8, see `PerceptualThumbnail`.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels
        self._coarse, self._detail = (np.empty((len(pixels), px * px), np.float32) for px in (_COARSE_PX, _DETAIL_PX))
        for start in range(0, len(pixels), _COLUMNS_PER_TILE):
            rows = slice(start, start + _COLUMNS_PER_TILE)
            grey = _grey(pixels[rows])
            self._coarse[rows], self._detail[rows] = _descriptors(grey, _REGIONS[0])

    def candidates(self) -> Iterator[tuple[int, Candidates]]:
        """Yield, for consecutive blocks of images, the pairs whose first image is in the block.

        Yields:
            The index after the last image of the block, and its pairs.
        """
        starts = range(0, len(self._pixels), _ROWS_PER_BLOCK)
        yield from ordered_map(self._candidates_of_block, starts, ahead=4)

    def measure(self, pairs: Candidates) -> Floats:
        """Return the resemblance of each pair, (P,), in [0, 1]."""
        batches = (slice(start, start + _PAIRS_PER_BATCH) for start in range(0, len(pairs.first), _PAIRS_PER_BATCH))
        measured = list(map(partial(self._measure_batch, pairs), batches))
        return np.concatenate(measured) if measured else np.empty(0, np.float32)

    def _candidates_of_block(self, start: int) -> tuple[int, Candidates]:
        block = self._pixels[start : start + _ROWS_PER_BLOCK]
        grey = _grey(block)
        described = [_descriptors(grey, region) for region in _REGIONS]
        coarse, detail = (np.stack(descriptors) for descriptors in zip(*described, strict=True))
        parts = [self._candidates_of_tile(coarse, detail, start, tile) for tile in self._tiles()]
        first, second, region = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return start + len(block), Candidates(first, second, region)

    def _tiles(self) -> list[slice]:
        return [slice(s, s + _COLUMNS_PER_TILE) for s in range(0, len(self._pixels), _COLUMNS_PER_TILE)]

    def _candidates_of_tile(
        self, coarse: Floats, detail: Floats, start: int, tile: slice
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return first, second and region of the candidates among a block and a tile of images."""
        columns = self._coarse[tile].T
        best = coarse[0] @ columns
        scores = np.empty_like(best)
        for region in coarse[1:]:  # one at a time, so that the scores stay in the cache
            np.matmul(region, columns, out=scores)
            np.maximum(best, scores, out=best)
        first, column = np.divmod(np.flatnonzero(best.ravel() > _MIN_COARSE), best.shape[1])
        second = column + tile.start
        is_other = first + start != second
        first, second = first[is_other], second[is_other]
        details = np.empty((len(_REGIONS), len(first)), np.float32)
        for number in range(len(_REGIONS)):
            for begin in range(0, len(first), _COLUMNS_PER_TILE):
                part = slice(begin, begin + _COLUMNS_PER_TILE)
                details[number, part] = np.einsum(
                    "pd,pd->p", detail[number, first[part]], self._detail[second[part]], optimize=False
                )
        keep = details.max(axis=0, initial=-1) > _MIN_DETAIL
        return first[keep] + start, second[keep], details[:, keep].argmax(axis=0)

    def _measure_batch(self, pairs: Candidates, batch: slice) -> Floats:
        first, second = self._pixels[pairs.first[batch]], self._pixels[pairs.second[batch]]
        regions = np.array(_REGIONS, np.float32)[pairs.region[batch]]
        resemblance, boxes = _align(_grey(first), _grey(second), regions)
        difference = np.zeros(len(first), np.float32)
        for channel in (1, 2):
            ours = _crop(_blurred(first[..., channel].astype(np.float32), _WIDE), boxes)
            theirs = _crop(_blurred(second[..., channel].astype(np.float32), _WIDE), _whole(len(second)))
            difference += ((ours - theirs) ** 2).mean(axis=(1, 2))
        resemblance[np.sqrt(difference) > _MAX_COLOUR_DIFFERENCE] = 0
        return np.clip(resemblance, 0, 1)


def _grey(pixels: NDArray[np.uint8]) -> Floats:
    return pixels[..., 0].astype(np.float32)


def _descriptors(grey: Floats, region: tuple[float, float, float]) -> tuple[Floats, Floats]:
    """Describe a region of each image: (N, 49) from its coarse shape and (N, 256) from its details, unit rows.

    The rows of images with less than `_MIN_CONTRAST` are zeros.
    """
    left, top, side = region
    coarse, detail = (_averages(top, side, px) @ grey @ _averages(left, side, px).T for px in (_COARSE_PX, _DETAIL_PX))
    is_flat = coarse.std(axis=(1, 2)) < _MIN_CONTRAST
    rows = [_unit(image).reshape(len(grey), -1) for image in (coarse, detail - _blurred(detail, _WIDE))]
    for row in rows:
        row[is_flat] = 0
    return rows[0], rows[1]


def _averages(start: float, side: float, num_cells: int) -> Floats:
    """Return the matrix (num_cells, 32) that averages an interval, given in shares of the side, in equal cells."""
    edges = (start + side * np.arange(num_cells + 1) / num_cells)[:, None] * PERCEPTUAL_PX
    samples = np.arange(PERCEPTUAL_PX)
    overlap = np.clip(np.minimum(edges[1:], samples + 1) - np.maximum(edges[:-1], samples), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def _unit(images: Floats) -> Floats:
    """Return (N, H, W) images with mean 0 and norm 1."""
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    norms = np.sqrt((centred * centred).sum(axis=(1, 2), keepdims=True))
    return np.asarray(centred / np.maximum(norms, 1e-6), np.float32)


def _blurred(images: Floats, kernel: tuple[int, ...]) -> Floats:
    """Convolve (N, H, W) images with a kernel along both axes; the edges are repeated."""
    margin, height, width = len(kernel) // 2, images.shape[1], images.shape[2]
    weights = np.array(kernel, np.float32) / np.float32(sum(kernel))
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    rows = sum(weight * padded[:, shift : shift + height] for shift, weight in enumerate(weights))
    return np.asarray(sum(weight * rows[:, :, shift : shift + width] for shift, weight in enumerate(weights)))


def _whole(count: int) -> Floats:
    """Return the boxes of whole images; see `_align`."""
    return np.tile(np.array([0.5, 1, 0.5, 1], np.float32), (count, 1))


def _sampling(centre: Floats, side: Floats) -> tuple[Floats, Floats]:
    """Return the matrices (B, 24, 32) that interpolate along one axis, and their derivatives by the position."""
    cells = (np.arange(_ALIGNED_PX, dtype=np.float32) + 0.5) / _ALIGNED_PX - 0.5
    position = (centre[:, None] + side[:, None] * cells) * PERCEPTUAL_PX - np.float32(0.5)
    offset = np.clip(position, 0, PERCEPTUAL_PX - 1)[:, :, None] - np.arange(PERCEPTUAL_PX, dtype=np.float32)
    weights = np.maximum(0, 1 - np.abs(offset))
    return weights, -np.sign(offset) * (weights > 0) * np.float32(PERCEPTUAL_PX)


def _crop(images: Floats, boxes: Floats) -> Floats:
    """Sample a box of each image: (B, 24, 24)."""
    rows, columns = _sampling(boxes[:, 2], boxes[:, 3])[0], _sampling(boxes[:, 0], boxes[:, 1])[0]
    return np.asarray(rows @ images @ columns.transpose(0, 2, 1))


def _align(first: Floats, second: Floats, regions: Floats) -> tuple[Floats, Floats]:
    """Align each second image with a box of the first.

    Args:
        first, second: (B, 32, 32) grey levels.
        regions: (B, 3), left, top and side from which to start.

    Returns:
        The correlation of the details in the best box, (B,), and the boxes, (B, 4): centre and side along x, then y.

    Source: Lucas and Kanade 1981, in the inverse role of the images and with normalised grey levels; the four
    parameters are a shift and a scale per axis.
    """
    first, target = _blurred(first, _SOFT), _crop(_blurred(second, _SOFT), _whole(len(second)))
    target_unit, target_details = _unit(target), _unit(target - _blurred(target, _WIDE))
    left, top, side = regions.T
    boxes = np.stack([left + side / 2, side, top + side / 2, side], axis=1)
    best, best_boxes = np.full(len(first), -1, np.float32), boxes
    for step in range(_NUM_STEPS + 1):
        rows, row_slopes = _sampling(boxes[:, 2], boxes[:, 3])
        columns, column_slopes = (matrix.transpose(0, 2, 1) for matrix in _sampling(boxes[:, 0], boxes[:, 1]))
        strips = rows @ first
        crops = strips @ columns
        correlation = (_unit(crops - _blurred(crops, _WIDE)) * target_details).sum(axis=(1, 2))
        is_better = correlation > best
        best, best_boxes = np.where(is_better, correlation, best), np.where(is_better[:, None], boxes, best_boxes)
        if step < _NUM_STEPS:
            slopes = strips @ column_slopes, row_slopes @ first @ columns
            boxes = _moved(boxes, _gauss_newton_step(crops, target_unit, *slopes))
    return best, best_boxes


def _gauss_newton_step(crops: Floats, target_unit: Floats, x_slopes: Floats, y_slopes: Floats) -> Floats:
    """Return the change of each box, (B, 4), that brings its crop closest to the target, to first order."""
    cells = (np.arange(_ALIGNED_PX, dtype=np.float32) + 0.5) / _ALIGNED_PX - 0.5
    slopes = np.stack([x_slopes, x_slopes * cells, y_slopes, y_slopes * cells[:, None]], axis=1)
    norms = np.sqrt(((crops - crops.mean(axis=(1, 2), keepdims=True)) ** 2).sum(axis=(1, 2)))
    slopes /= np.maximum(norms, 1e-3)[:, None, None, None]
    slopes -= slopes.mean(axis=(2, 3), keepdims=True)
    slopes = slopes.reshape(len(crops), 4, -1)
    residual = (target_unit - _unit(crops)).reshape(len(crops), -1, 1)
    normal = slopes @ slopes.transpose(0, 2, 1) + 1e-3 * np.eye(4, dtype=np.float32)
    return np.asarray(np.linalg.solve(normal, slopes @ residual)[:, :, 0], np.float32)


def _moved(boxes: Floats, change: Floats) -> Floats:
    """Change boxes, by little and so that they stay within the image."""
    boxes = boxes + np.clip(change, -_MAX_STEP, _MAX_STEP)
    boxes[:, 1::2] = np.clip(boxes[:, 1::2], _MIN_SIDE, _MAX_SIDE)
    margin = np.maximum(0, 0.5 + _SLACK - boxes[:, 1::2] / 2)
    boxes[:, ::2] = np.clip(boxes[:, ::2], 0.5 - margin, 0.5 + margin)
    return boxes
