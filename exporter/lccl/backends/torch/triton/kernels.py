"""The op's kernels in Triton: gate and list, rows, boxes, closed pixels.

Only Triton is imported here, so that the same source is compiled when it is first called, compiled
ahead of time, and run by Triton's interpreter on a CPU.

A *cell* is one value of the gate map: a pixel of y, or a block of G x G pixels under a grid gate.
:func:`gate_cells` computes the map and lists the open cells; :func:`conv_rows` or
:func:`conv_boxes` computes their pixels; :func:`close_pixels` writes the others. No pixel is
written by two kernels, so that y may be the residual's own memory.

Maps lie in NHWC, weights as [K, R, S, C]. Sizes, indices of pixels and offsets within weights have
32 bits, offsets within maps 64.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def leaky(v, alpha):
    """v where v > 0, else alpha * v."""
    return tl.where(v > 0, v, v * alpha)


@triton.jit
def gate_cells(
    x, gate_w, gate_b, external, gmap, cells, count,
    n_cells, H, W, Hg, Wg, C, Rg, Sg, sh, sw, ph, pw, dh, dw,
    slope, bound, threshold, external_stride,
    FUSED: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Compute the gate map of BM cells in float32, and append the open ones to the list.

    The order of the list differs from run to run; results do not depend on it.

    Args:
        x: [N, H, W, C].
        gate_w, gate_b: [Rg, Sg, C] and [1].
        external: [N, Hg, Wg], or one value with a stride of 0.
        gmap: [N, Hg, Wg], written; 0 where a cell is closed.
        cells, count: the list, and its length, which is 0 before.
        sh, sw, ph, pw, dh, dw: strides, pads above and left, dilations of the gate's convolution.
        slope, bound, threshold: of the gate's activation.
        external_stride: 1 or 0.
        FUSED: whether gate_w holds anything.
    """
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = m < n_cells
    wg = m % Wg
    hg = (m // Wg) % Hg
    n = m // (Wg * Hg)
    logit = tl.zeros((BM,), tl.float32)
    if FUSED:
        h0 = hg * sh - ph
        w0 = wg * sw - pw
        for tap in tl.range(0, Rg * Sg):
            h = h0 + (tap // Sg) * dh
            w = w0 + (tap % Sg) * dw
            seen = inside & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            row = ((n * H + h) * W + w).to(tl.int64) * C
            for first in tl.range(0, C, BC):
                c = first + tl.arange(0, BC)
                known = c < C
                a = tl.load(x + row[:, None] + c[None, :], mask=seen[:, None] & known[None, :], other=0.0)
                b = tl.load(gate_w + tap * C + c, mask=known, other=0.0)
                logit += tl.sum(a.to(tl.float32) * b.to(tl.float32)[None, :], 1)
    g = tl.minimum(tl.maximum(slope * (logit + tl.load(gate_b)), 0.0), bound)
    g *= tl.load(external + m * external_stride, mask=inside, other=0.0).to(tl.float32)
    is_open = inside & (g > threshold)
    tl.store(gmap + m, tl.where(is_open, g, 0.0), mask=inside)
    one = is_open.to(tl.int32)
    first_place = tl.atomic_add(count, tl.sum(one, 0))
    tl.store(cells + first_place + tl.cumsum(one, 0) - 1, m, mask=is_open)


@triton.jit
def finished(acc, g, bias, scale, offset, scale_stride, offset_stride, n, K, alpha):
    """Apply everything behind the sums but the residual: [rows, BN] in float32."""
    known = n < K
    u = leaky(acc + tl.load(bias + n, mask=known, other=0.0)[None, :], alpha)
    v = u * g[:, None]
    by = tl.load(scale + n * scale_stride, mask=known, other=0.0)
    plus = tl.load(offset + n * offset_stride, mask=known, other=0.0)
    return v * by[None, :] + plus[None, :]


@triton.jit
def conv_rows(
    x, w, bias, scale, offset, residual, gmap, cells, count, y,
    n_cells, H, W, Ho, Wo, Hg, Wg, C, K, R, S, G, sh, sw, ph, pw, dh, dw,
    alpha, post_alpha, scale_stride, offset_stride, dense_share,
    HAS_RESIDUAL: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute the pixels of open cells: BM rows of gathered pixels by BN channels a tile.

    Takes every form of the op. Beyond dense_share open cells the rows are all pixels in order,
    which the caches like better; those of closed cells are not stored.

    Args:
        x, w, y: [N, H, W, C], [K, R, S, C], [N, Ho, Wo, K]; y is written at open pixels.
        bias, scale, offset: B, post_scale and post_bias in float32.
        residual: [N, Ho, Wo, K], read only with HAS_RESIDUAL; may be y.
        gmap, cells, count: what :func:`gate_cells` wrote.
        G: the side of a cell in pixels.
        scale_stride, offset_stride: 1, or 0 for one value for all channels.
        OPERAND: the type of the tensor cores' operands: T. On the interpreter float32, since it
            multiplies bfloat16 as the integers that it is stored as.
    """
    n_open = tl.load(count)
    is_dense = n_open > dense_share * n_cells
    rows = tl.where(is_dense, n_cells, n_open) * (G * G)
    tiles_n = tl.cdiv(K, BN)
    steps = tl.cdiv(C, BK) * R * S
    for tile in tl.range(tl.program_id(0), tl.cdiv(rows, BM) * tiles_n, tl.num_programs(0)):
        m = (tile // tiles_n) * BM + tl.arange(0, BM)
        n = (tile % tiles_n) * BN + tl.arange(0, BN)
        listed = m < rows
        at = m // (G * G)
        cell = tl.load(cells + at, mask=listed & (at < n_open), other=0)
        cell = tl.where(is_dense, tl.where(listed, at, 0), cell)
        within = m % (G * G)
        ho = (cell // Wg) % Hg * G + within // G
        wo = cell % Wg * G + within % G
        image = cell // (Wg * Hg)
        g = tl.load(gmap + cell, mask=listed, other=0.0)
        stored = listed & (ho < Ho) & (wo < Wo) & (g > 0)
        h0 = ho * sh - ph
        w0 = wo * sw - pw
        corner = ((image * H + h0) * W + w0).to(tl.int64) * C
        acc = tl.zeros((BM, BN), tl.float32)
        for i in tl.range(0, steps):
            tap = i % (R * S)
            c = (i // (R * S)) * BK + tl.arange(0, BK)
            down = (tap // S) * dh
            right = (tap % S) * dw
            seen = stored & (h0 + down >= 0) & (h0 + down < H) & (w0 + right >= 0) & (w0 + right < W)
            known = c < C
            shift = (down * W + right) * C + c
            a = tl.load(x + corner[:, None] + shift[None, :], mask=seen[:, None] & known[None, :], other=0.0)
            weight = (n * (R * S) + tap) * C
            b = tl.load(w + weight[None, :] + c[:, None], mask=(n < K)[None, :] & known[:, None], other=0.0)
            acc = tl.dot(a.to(OPERAND), b.to(OPERAND), acc, input_precision=PRECISION)
        out = finished(acc, g, bias, scale, offset, scale_stride, offset_stride, n, K, alpha)
        place = ((image * Ho + ho) * Wo + wo).to(tl.int64)[:, None] * K + n[None, :]
        mask = stored[:, None] & (n < K)[None, :]
        if HAS_RESIDUAL:
            out += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
        tl.store(y + place, leaky(out, post_alpha).to(y.dtype.element_ty), mask=mask)


@triton.jit
def conv_boxes(
    x, w, residual, y, bias, scale, offset, gmap, cells, count,
    n_cells, Hg, Wg, C, K, R, S, G, ph, pw, dh, dw,
    alpha, post_alpha, scale_stride, offset_stride, dense_share,
    HAS_RESIDUAL: tl.constexpr, PRECISION: tl.constexpr, OPERAND: tl.constexpr, SIDE: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Compute open cells as boxes of SIDE x SIDE pixels, two a tile over the same weights.

    For stride 1 and a G that SIDE divides. A box is one copy by the tensor memory accelerator: taps
    outside of the map arrive as zeros, and what of a box lies outside of y is not stored.

    With an odd number of boxes the second one of the last tile computes the first again and is not
    stored: with a residual in y's own memory it would be added twice.

    Args:
        x: descriptor of [N, H, W, C], box [1, SIDE, SIDE, BK].
        w: descriptor of [K, R * S, C], box [BN, 1, BK].
        residual, y: descriptors of [N, Ho, Wo, K], box [1, SIDE, SIDE, BN].
    """
    P: tl.constexpr = SIDE * SIDE
    per_side = G // SIDE
    per_cell = per_side * per_side
    n_open = tl.load(count)
    is_dense = n_open > dense_share * n_cells
    boxes = tl.where(is_dense, n_cells, n_open) * per_cell
    tiles_n = tl.cdiv(K, BN)
    steps = tl.cdiv(C, BK) * R * S
    for tile in tl.range(tl.program_id(0), tl.cdiv(boxes, 2) * tiles_n, tl.num_programs(0)):
        k0 = (tile % tiles_n) * BN
        box0 = (tile // tiles_n) * 2
        has_second = box0 + 1 < boxes
        box1 = tl.where(has_second, box0 + 1, box0)
        at0 = box0 // per_cell
        at1 = box1 // per_cell
        cell0 = tl.load(cells + at0, mask=at0 < n_open, other=0)
        cell1 = tl.load(cells + at1, mask=at1 < n_open, other=0)
        cell0 = tl.where(is_dense, at0, cell0)
        cell1 = tl.where(is_dense, at1, cell1)
        n0 = cell0 // (Hg * Wg)
        n1 = cell1 // (Hg * Wg)
        h0 = (cell0 // Wg) % Hg * G + box0 % per_cell // per_side * SIDE
        h1 = (cell1 // Wg) % Hg * G + box1 % per_cell // per_side * SIDE
        w0 = cell0 % Wg * G + box0 % per_side * SIDE
        w1 = cell1 % Wg * G + box1 % per_side * SIDE
        acc0 = tl.zeros((P, BN), tl.float32)
        acc1 = tl.zeros((P, BN), tl.float32)
        for i in tl.range(0, steps):
            tap = i % (R * S)
            c0 = (i // (R * S)) * BK
            r = (tap // S) * dh - ph
            s = (tap % S) * dw - pw
            b = w.load([k0, tap, c0]).reshape([BN, BK]).to(OPERAND)
            a0 = x.load([n0, h0 + r, w0 + s, c0]).reshape([P, BK]).to(OPERAND)
            a1 = x.load([n1, h1 + r, w1 + s, c0]).reshape([P, BK]).to(OPERAND)
            acc0 = tl.dot(a0, b.T, acc0, input_precision=PRECISION)
            acc1 = tl.dot(a1, b.T, acc1, input_precision=PRECISION)
        n = k0 + tl.arange(0, BN)
        ones = tl.full((P,), 1.0, tl.float32)
        g0 = tl.load(gmap + cell0)
        if g0 > 0:
            out0 = finished(acc0, ones * g0, bias, scale, offset, scale_stride, offset_stride, n, K, alpha)
            if HAS_RESIDUAL:
                out0 += residual.load([n0, h0, w0, k0]).reshape([P, BN]).to(tl.float32)
            y.store([n0, h0, w0, k0], leaky(out0, post_alpha).to(y.dtype).reshape([1, SIDE, SIDE, BN]))
        g1 = tl.load(gmap + cell1)
        if has_second & (g1 > 0):
            out1 = finished(acc1, ones * g1, bias, scale, offset, scale_stride, offset_stride, n, K, alpha)
            if HAS_RESIDUAL:
                out1 += residual.load([n1, h1, w1, k0]).reshape([P, BN]).to(tl.float32)
            y.store([n1, h1, w1, k0], leaky(out1, post_alpha).to(y.dtype).reshape([1, SIDE, SIDE, BN]))


@triton.jit
def close_pixels(
    offset, residual, gmap, y, pixels, Ho, Wo, Hg, Wg, K, G, post_alpha, offset_stride,
    HAS_RESIDUAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Write the pixels of closed cells: the affine's offset and the residual, activated.

    Args:
        pixels: N * Ho * Wo.
        residual: [N, Ho, Wo, K], read only with HAS_RESIDUAL; may be y.
    """
    p = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = p < pixels
    wo = p % Wo
    ho = (p // Wo) % Ho
    cell = ((p // (Wo * Ho)) * Hg + ho // G) * Wg + wo // G
    is_closed = inside & (tl.load(gmap + cell, mask=inside, other=1.0) <= 0)
    mask = is_closed[:, None] & (n < K)[None, :]
    place = p.to(tl.int64)[:, None] * K + n[None, :]
    out = tl.zeros((BM, BN), tl.float32) + tl.load(offset + n * offset_stride, mask=n < K, other=0.0)[None, :]
    if HAS_RESIDUAL:
        out += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + place, leaky(out, post_alpha).to(y.dtype.element_ty), mask=mask)
