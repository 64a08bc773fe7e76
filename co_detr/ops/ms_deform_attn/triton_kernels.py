"""Triton kernels of multi-scale deformable attention; `triton.py` launches them.

A program handles a tile of queries, one head and one image, with all channels of the head side by
side. Values are read in their own type; locations, weights and sums are float32 (float64 if the
values are): bfloat16 would move a point by half a cell of a map that is 330 cells wide. The
backward pass samples anew instead of keeping samples, writes the gradients of locations and
weights plainly, and adds those of values atomically: their last bits depend on the order.

Letters: N images, Q queries, S rows (cells) of the table of values, M heads, D channels of a head,
K = levels * P samples of a query and head. All tensors are contiguous.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["S", "Q"])
def forward_kernel(
    output,  # (N, Q, M, D)
    value,  # (N, S, M, D)
    levels,  # (L, 4) int32: height, width, first row, first patch
    pairs,  # (N, Q, M, L, P, 2) locations, or offsets
    scores,  # (N, Q, M, L, P) weights, or logits
    centers,  # (N, Q, L, 2) and
    scale,  # (N, Q, L, 2) of offsets, else unused
    S,
    Q,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    FROM_OFFSETS: tl.constexpr,
    PATCHES: tl.constexpr,  # the queries are the cells of the maps
    WIDE: tl.constexpr,  # offsets need 64 bits
    DTYPE: tl.constexpr,  # of sums
    TILE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PATCH_WIDTH: tl.constexpr,
):
    query, is_query, head, image = _place(levels, Q, L, PATCHES, WIDE, TILE, PATCH_WIDTH)
    channel = tl.arange(0, BLOCK_D)[None, :]
    is_cell = is_query[:, None] & (channel < D)
    frame = (image * Q + query) * L
    bag = (image * Q + query) * M + head
    table = value + (image * S * M + head) * D + channel

    if FROM_OFFSETS:
        logits = _logits(scores, bag, is_query, L * P, BLOCK_K, DTYPE)
        top = tl.max(logits, axis=1)
        total = tl.sum(tl.exp(logits - top[:, None]), axis=1)

    summed = tl.zeros((TILE, BLOCK_D), DTYPE)
    for level in range(L):
        height, width, row = _level(levels, level, WIDE)
        if FROM_OFFSETS:
            unit_x, unit_y = _pair(scale, frame + level, is_query, DTYPE)
            center_x, center_y = _pair(centers, frame + level, is_query, DTYPE)
        for point in tl.static_range(P):
            sample = bag * (L * P) + level * P + point
            x, y = _pair(pairs, sample, is_query, DTYPE)
            weight = tl.load(scores + sample, mask=is_query, other=0.0).to(DTYPE)
            if FROM_OFFSETS:
                weight = tl.exp(weight - top) / total
                x, y = center_x + x * unit_x, center_y + y * unit_y
            x, y = x * width - 0.5, y * height - 0.5
            low_x, low_y = tl.floor(x), tl.floor(y)
            for corner in tl.static_range(4):
                cell_x, cell_y = low_x + corner % 2, low_y + corner // 2
                inside = _inside(cell_x, cell_y, width, height)
                index = _row(cell_x, cell_y, row, width, inside, WIDE)
                share = weight * _hat(x - low_x, corner % 2) * _hat(y - low_y, corner // 2)
                cells = tl.load(
                    table + index[:, None] * (M * D), mask=inside[:, None] & is_cell, other=0.0
                )
                summed += share[:, None] * cells.to(DTYPE)
    tl.store(output + bag[:, None] * D + channel, summed, mask=is_cell)


@triton.jit(do_not_specialize=["S", "Q"])
def backward_kernel(
    grad_value,  # (N, S, M, D) zeros in the dtype of sums
    grad_pairs,  # (N, Q, M, L, P, 2)
    grad_scores,  # (N, Q, M, L, P)
    grad_output,  # (N, Q, M, D)
    value,
    levels,
    pairs,
    scores,
    centers,
    scale,
    S,
    Q,
    M: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    FROM_OFFSETS: tl.constexpr,
    OF_LOCATIONS: tl.constexpr,  # `grad_pairs` is that of locations, though pairs may be offsets
    NEEDS_VALUE: tl.constexpr,
    NEEDS_SAMPLES: tl.constexpr,
    PATCHES: tl.constexpr,
    WIDE: tl.constexpr,
    DTYPE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PATCH_WIDTH: tl.constexpr,
):
    query, is_query, head, image = _place(levels, Q, L, PATCHES, WIDE, TILE, PATCH_WIDTH)
    channel = tl.arange(0, BLOCK_D)[None, :]
    is_cell = is_query[:, None] & (channel < D)
    frame = (image * Q + query) * L
    bag = (image * Q + query) * M + head
    head_start = (image * S * M + head) * D + channel
    grad = tl.load(grad_output + bag[:, None] * D + channel, mask=is_cell, other=0.0).to(DTYPE)

    column = tl.arange(0, BLOCK_K)[None, :]
    grad_softmax = tl.zeros((TILE, BLOCK_K), DTYPE)
    if FROM_OFFSETS:
        logits = _logits(scores, bag, is_query, L * P, BLOCK_K, DTYPE)
        top = tl.max(logits, axis=1)
        softmax = tl.exp(logits - top[:, None])
        total = tl.sum(softmax, axis=1)
        softmax /= total[:, None]

    for level in range(L):
        height, width, row = _level(levels, level, WIDE)
        if FROM_OFFSETS:
            unit_x, unit_y = _pair(scale, frame + level, is_query, DTYPE)
            center_x, center_y = _pair(centers, frame + level, is_query, DTYPE)
        for point in tl.static_range(P):
            sample = bag * (L * P) + level * P + point
            x, y = _pair(pairs, sample, is_query, DTYPE)
            weight = tl.load(scores + sample, mask=is_query, other=0.0).to(DTYPE)
            slope_x, slope_y = width, height  # of positions in cells, by `pairs`
            if FROM_OFFSETS:
                weight = tl.exp(weight - top) / total
                x, y = center_x + x * unit_x, center_y + y * unit_y
                if not OF_LOCATIONS:
                    slope_x, slope_y = slope_x * unit_x, slope_y * unit_y
            x, y = x * width - 0.5, y * height - 0.5
            low_x, low_y = tl.floor(x), tl.floor(y)
            grad_x, grad_y = tl.zeros((TILE,), DTYPE), tl.zeros((TILE,), DTYPE)
            grad_weight = tl.zeros((TILE,), DTYPE)
            for corner in tl.static_range(4):
                cell_x, cell_y = low_x + corner % 2, low_y + corner // 2
                inside = _inside(cell_x, cell_y, width, height)
                index = _row(cell_x, cell_y, row, width, inside, WIDE)
                offset = head_start + index[:, None] * (M * D)
                mask = inside[:, None] & is_cell
                hat_x, hat_y = _hat(x - low_x, corner % 2), _hat(y - low_y, corner // 2)
                if NEEDS_VALUE:
                    tl.atomic_add(
                        grad_value + offset,
                        (weight * hat_x * hat_y)[:, None] * grad,
                        mask=mask,
                        sem="relaxed",
                    )
                if NEEDS_SAMPLES:
                    cells = tl.load(value + offset, mask=mask, other=0.0).to(DTYPE)
                    grad_corner = tl.sum(cells * grad, axis=1)
                    grad_weight += grad_corner * hat_x * hat_y
                    # towards a corner on the high side its hat grows
                    grad_x += grad_corner * hat_y * (2 * (corner % 2) - 1)
                    grad_y += grad_corner * hat_x * (2 * (corner // 2) - 1)
            if NEEDS_SAMPLES:
                tl.store(grad_pairs + 2 * sample, weight * grad_x * slope_x, mask=is_query)
                tl.store(grad_pairs + 2 * sample + 1, weight * grad_y * slope_y, mask=is_query)
                if FROM_OFFSETS:
                    here = column == level * P + point
                    grad_softmax = tl.where(here, grad_weight[:, None], grad_softmax)
                else:
                    tl.store(grad_scores + sample, grad_weight, mask=is_query)
    if FROM_OFFSETS and NEEDS_SAMPLES:
        mean = tl.sum(softmax * grad_softmax, axis=1)
        tl.store(
            grad_scores + bag[:, None] * (L * P) + column,
            softmax * (grad_softmax - mean[:, None]),
            mask=is_query[:, None] & (column < L * P),
        )


@triton.jit
def _place(
    levels,
    Q,
    L: tl.constexpr,
    PATCHES: tl.constexpr,
    WIDE: tl.constexpr,
    TILE: tl.constexpr,
    PATCH_WIDTH: tl.constexpr,
):
    """The program's queries (TILE,) and which of them exist, its head, and its image.

    Neighbouring cells sample the same rows, so that a patch of a map needs fewer than a line of it.
    """
    tile, head, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    lane = tl.arange(0, TILE)
    query = tile * TILE + lane
    is_query = query < Q
    if PATCHES:
        height, width, row, first = tile * 0, tile * 0, tile * 0, tile * 0
        for level in range(L):
            candidate = tl.load(levels + 4 * level + 3)
            reached = tile >= candidate
            height = tl.where(reached, tl.load(levels + 4 * level), height)
            width = tl.where(reached, tl.load(levels + 4 * level + 1), width)
            row = tl.where(reached, tl.load(levels + 4 * level + 2), row)
            first = tl.where(reached, candidate, first)
        columns = tl.cdiv(width, PATCH_WIDTH)
        y = (tile - first) // columns * (TILE // PATCH_WIDTH) + lane // PATCH_WIDTH
        x = (tile - first) % columns * PATCH_WIDTH + lane % PATCH_WIDTH
        query = row + y * width + x
        is_query = (x < width) & (y < height)
    if WIDE:
        query, head, image = query.to(tl.int64), head.to(tl.int64), image.to(tl.int64)
    return query, is_query, head, image


@triton.jit
def _level(levels, level, WIDE: tl.constexpr):
    """Height, width and first row of a level."""
    row = tl.load(levels + 4 * level + 2)
    if WIDE:
        row = row.to(tl.int64)
    return tl.load(levels + 4 * level), tl.load(levels + 4 * level + 1), row


@triton.jit
def _pair(pairs, index, mask, DTYPE: tl.constexpr):
    """Load (x, y)."""
    x = tl.load(pairs + 2 * index, mask=mask, other=0.0).to(DTYPE)
    y = tl.load(pairs + 2 * index + 1, mask=mask, other=0.0).to(DTYPE)
    return x, y


@triton.jit
def _logits(scores, bag, is_query, K: tl.constexpr, BLOCK_K: tl.constexpr, DTYPE: tl.constexpr):
    """Load the logits (TILE, BLOCK_K) of all samples, filled up with -inf."""
    column = tl.arange(0, BLOCK_K)[None, :]
    pointers = scores + bag[:, None] * K + column
    logits = tl.load(pointers, mask=is_query[:, None] & (column < K), other=0.0).to(DTYPE)
    return tl.where(column < K, logits, float("-inf"))


@triton.jit
def _inside(cell_x, cell_y, width, height):
    """Whether cells exist; compared as they are, for integers may overflow."""
    return (cell_x >= 0) & (cell_x < width) & (cell_y >= 0) & (cell_y < height)


@triton.jit
def _hat(fraction, high: tl.constexpr):
    """Interpolation weights of the low or the high cell."""
    return fraction if high else 1 - fraction


@triton.jit
def _row(cell_x, cell_y, first_row, width, inside, WIDE: tl.constexpr):
    """Rows of the table of values (TILE,), of cells that exist."""
    x = tl.where(inside, cell_x, 0.0).to(tl.int32)
    y = tl.where(inside, cell_y, 0.0).to(tl.int32)
    index = y * width + x
    if WIDE:
        index = index.to(tl.int64)
    return first_row + index
