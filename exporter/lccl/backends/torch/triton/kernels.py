"""The op's kernels in Triton: gate and list, rows, boxes, closed pixels.

Only Triton is imported here, so that the same source is compiled when it is first called, compiled
ahead of time, and run by Triton's interpreter on a CPU.

A *cell* is one value of the gate map: a pixel of y, or a block of G x G pixels under a grid gate.
:func:`gate_cells` computes the map and lists the open cells; :func:`conv_rows` or
:func:`conv_boxes` computes their pixels; :func:`close_pixels` writes the others. No pixel is
written by two kernels, so that y may be the residual's own memory.

Weights lie as [K, R, S, C]. A map lies as its strides say, in elements: from image to image, from
pixel to pixel along W, and from channel to channel; a row of pixels is W of them. In NHWC these are
H * W * pitch, pitch and 1, and a pitch above the channels is padding, which is never read and, in
y, written as 0. Sizes, indices of pixels and offsets within weights have 32 bits, offsets within
maps 64.
"""

from __future__ import annotations

import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

import triton

SIZES = (
    "n_cells", "pixels", "H", "W", "Ho", "Wo", "Hg", "Wg", "C", "K", "R", "S", "Rg", "Sg", "G",
    "sh", "sw", "ph", "pw", "dh", "dw", "x_image", "x_pixel", "y_image", "y_pixel", "y_channels",
    "external_stride", "scale_stride", "offset_stride", "has_gate_b", "has_residual", "keeps", "simulated_shift",
)  # fmt: skip
"""Arguments for whose values nothing is compiled apart, so that one compiled kernel serves all
sizes. Of itself Triton compiles again where one is 1 or a multiple of 16."""


@triton.jit
def after_the_kernel_before(PDL: tl.constexpr, LAST: tl.constexpr = False):
    """Wait for the kernel before this one, and let the next one start to wait.

    The last kernel of a call lets none start: what follows is not known, and need not wait.

    With PDL (programmatic dependent launch; compute capability 9.0 and later) a kernel starts while
    the one before it still runs. Two traps, both avoided by calling this first in every kernel,
    ahead of any read or write:

    * What the kernel before wrote must not be read ahead of the wait, also not by a load that the
      compiler takes for one of constant memory.
    * A wait is for the kernel before alone. So every kernel waits, also where it needs nothing of
      that one; and the gate waits before it writes, since layers may share their gate maps' memory
      and the kernel before may still read it.
    """
    if PDL:
        gdc_wait()
        if not LAST:
            gdc_launch_dependents()


@triton.jit
def hinted(size, EIGHTS: tl.constexpr):
    """Return a size or a stride; with EIGHTS the compiler knows that it is a multiple of 8.

    So it copies 16 bytes at a time. By itself Triton looks for multiples of 16 alone.
    """
    if EIGHTS:
        size = size // 8 * 8
    return size


@triton.jit
def leaky(v, alpha):
    """v where v > 0, else alpha * v."""
    return tl.where(v > 0, v, v * alpha)


@triton.jit
def simulated_share(line, column, shift):
    """Return a number in [0, 1) for each cell; about a share d of the cells lie below d.

    The CUDA kernels' simulatedShare.

    Args:
        line: the row of the gate map, counted through all images.
        shift: 2 for pixel gates, whose 4 x 4 neighbours share a number; 0 for grid gates.
    """
    h = (line >> shift).to(tl.uint32) * 0x9E3779B1 + (column >> shift).to(tl.uint32) * 0x85EBCA77
    h = (h ^ (h >> 15)) * 0x2C1B3C6D
    h = (h ^ (h >> 12)) * 0x297A2D39
    h ^= h >> 15
    return (h >> 8).to(tl.int32).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit(do_not_specialize=SIZES)
def gate_cells(
    x, gate_w, gate_b, external, gmap, cells, count,
    n_cells, H, W, Hg, Wg, C, Rg, Sg, sh, sw, ph, pw, dh, dw,
    x_image, x_pixel, x_channel,
    slope, bound, threshold, external_stride, has_gate_b, simulated, simulated_shift,
    FUSED: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, EIGHTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute the gate map of BM cells in float32, and append the open ones to the list.

    The order of the list differs from run to run; results do not depend on it.

    Args:
        x: a map of C channels, with its strides x_image, x_pixel, x_channel.
        gate_w, gate_b: [Rg, Sg, C] and [1]; gate_b is read only with has_gate_b, else it is 1.
        external: [N, Hg, Wg].
        gmap: [N, Hg, Wg], written; 0 where a cell is closed.
        cells, count: the list, and its length, which is 0 before.
        sh, sw, ph, pw, dh, dw: strides, pads above and left, dilations of the gate's convolution.
        slope, bound, threshold: of the gate's activation.
        external_stride: 1; 0 for one value; -1 where there is no external gate.
        simulated: below 0, or the share of cells whose gate becomes 1, and all others' 0: for
            timing on inputs that mean nothing.
        simulated_shift: of :func:`simulated_share`.
        FUSED: whether gate_w holds anything.
        EIGHTS: whether C and the strides are multiples of 8.
        PDL: see :func:`after_the_kernel_before`.
    """
    after_the_kernel_before(PDL)
    C, x_image, x_pixel = hinted(C, EIGHTS), hinted(x_image, EIGHTS), hinted(x_pixel, EIGHTS)
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
            row = n.to(tl.int64) * x_image + (h * W + w).to(tl.int64) * x_pixel
            for first in tl.range(0, C, BC):
                c = first + tl.arange(0, BC)
                known = c < C
                channel = c.to(tl.int64) * x_channel
                a = tl.load(x + row[:, None] + channel[None, :], mask=seen[:, None] & known[None, :], other=0.0)
                b = tl.load(gate_w + tap * C + c, mask=known, other=0.0)
                logit += tl.sum(a.to(tl.float32) * b.to(tl.float32)[None, :], 1)
    logit += tl.load(gate_b, mask=has_gate_b > 0, other=1.0)
    g = tl.minimum(tl.maximum(slope * logit, 0.0), bound)
    has_external = m < tl.where(external_stride >= 0, n_cells, 0)
    g *= tl.load(external + m * external_stride, mask=has_external, other=1.0).to(tl.float32)
    if simulated >= 0:
        g = tl.where(simulated_share(m // Wg, wg, simulated_shift) < simulated, 1.0, 0.0)
    # A simulated gate is 1 or 0, whatever the threshold: it may be 1 or more.
    is_open = inside & (g > tl.where(simulated >= 0, 0.0, threshold))
    tl.store(gmap + m, tl.where(is_open, g, 0.0), mask=inside)
    one = is_open.to(tl.int32)
    first_place = tl.atomic_add(count, tl.sum(one, 0))
    tl.store(cells + first_place + tl.cumsum(one, 0) - 1, m, mask=is_open)


@triton.jit
def finished(acc, g, bias, scale, offset, scale_stride, offset_stride, n, K, alpha):
    """Apply everything behind the sums but the residual: [rows, BN] in float32, 0 beyond K."""
    known = n < K
    u = leaky(acc + tl.load(bias + n, mask=known, other=0.0)[None, :], alpha)
    v = u * g[:, None]
    by = tl.load(scale + n * scale_stride, mask=n < tl.where(scale_stride >= 0, K, 0), other=1.0)
    plus = tl.load(offset + n * offset_stride, mask=n < tl.where(offset_stride >= 0, K, 0), other=0.0)
    return tl.where(known[None, :], v * by[None, :] + plus[None, :], 0.0)


@triton.jit
def halves(sums):
    """Split [rows, columns] into the left and the right half of the columns."""
    return sums.reshape([sums.shape[0], 2, sums.shape[1] // 2]).permute(0, 2, 1).split()


@triton.jit
def part_of(sums, PART: tl.constexpr, PARTS: tl.constexpr):
    """Return one of 1, 2 or 4 parts of the columns of [rows, columns].

    What is done behind the sums goes part by part, so that the registers hold the channels'
    constants and the residual of one part at a time. Whole, tiles of 128 x 128 spill.
    """
    if PARTS == 4:
        left, right = halves(sums)
        sums = left if PART < 2 else right
    if PARTS > 1:
        left, right = halves(sums)
        sums = left if PART % 2 == 0 else right
    return sums


@triton.jit(do_not_specialize=SIZES)
def conv_rows(
    x, w, bias, scale, offset, residual, gmap, cells, count, y,
    n_cells, H, W, Ho, Wo, Hg, Wg, C, K, R, S, G, sh, sw, ph, pw, dh, dw,
    x_image, x_pixel, x_channel, y_image, y_pixel, y_channel, y_channels,
    alpha, post_alpha, scale_stride, offset_stride, has_residual, dense_share,
    PRECISION: tl.constexpr, OPERAND: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EN: tl.constexpr, EIGHTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute the pixels of open cells: BM rows of gathered pixels by BN channels a tile.

    Takes every form of the op. Beyond dense_share open cells the rows are all pixels in order,
    which the caches like better; those of closed cells are not stored.

    Args:
        x, w, y: a map of C channels with the strides x_image, x_pixel, x_channel; [K, R, S, C]; a
            map of K channels with the strides y_image, y_pixel, y_channel. y is written at open
            pixels.
        bias, scale, offset: B, post_scale and post_bias in float32.
        residual: lies as y, read only where has_residual is 1; may be y.
        gmap, cells, count: what :func:`gate_cells` wrote.
        G: the side of a cell in pixels.
        y_channels: channels of y that are written: K, or K and its padding.
        scale_stride, offset_stride: 1; 0 for one value for all channels; -1 for none.
        OPERAND: the type of the tensor cores' operands: T. On the interpreter float32, since it
            multiplies bfloat16 as the integers that it is stored as.
        EN: BN, BN / 2 or BN / 4: the channels that are finished at a time.
    """
    after_the_kernel_before(PDL)
    C, x_image, x_pixel = hinted(C, EIGHTS), hinted(x_image, EIGHTS), hinted(x_pixel, EIGHTS)
    y_image, y_pixel, y_channels = hinted(y_image, EIGHTS), hinted(y_pixel, EIGHTS), hinted(y_channels, EIGHTS)
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
        corner = image.to(tl.int64) * x_image + (h0 * W + w0).to(tl.int64) * x_pixel
        acc = tl.zeros((BM, BN), tl.float32)
        for i in tl.range(0, steps):
            tap = i % (R * S)
            c = (i // (R * S)) * BK + tl.arange(0, BK)
            down = (tap // S) * dh
            right = (tap % S) * dw
            seen = stored & (h0 + down >= 0) & (h0 + down < H) & (w0 + right >= 0) & (w0 + right < W)
            known = c < C
            shift = (down * W + right).to(tl.int64) * x_pixel + c.to(tl.int64) * x_channel
            a = tl.load(x + corner[:, None] + shift[None, :], mask=seen[:, None] & known[None, :], other=0.0)
            weight = (n * (R * S) + tap) * C
            b = tl.load(w + weight[None, :] + c[:, None], mask=(n < K)[None, :] & known[:, None], other=0.0)
            acc = tl.dot(a.to(OPERAND), b.to(OPERAND), acc, input_precision=PRECISION)
        pixel = image.to(tl.int64) * y_image + (ho * Wo + wo).to(tl.int64) * y_pixel
        for part in tl.static_range(BN // EN):
            k = (tile % tiles_n) * BN + part * EN + tl.arange(0, EN)
            out = finished(part_of(acc, part, BN // EN), g, bias, scale, offset, scale_stride, offset_stride, k, K, alpha)
            place = pixel[:, None] + (k.to(tl.int64) * y_channel)[None, :]
            mask = stored[:, None] & (k < y_channels)[None, :]
            if has_residual > 0:
                added = tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
                out += tl.where((k < K)[None, :], added, 0.0)
            tl.store(y + place, leaky(out, post_alpha).to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES)
def conv_boxes(
    x, w, residual, y, bias, scale, offset, gmap, cells, count,
    n_cells, Hg, Wg, C, K, R, S, G, ph, pw, dh, dw,
    alpha, post_alpha, scale_stride, offset_stride, has_residual, dense_share,
    PRECISION: tl.constexpr, OPERAND: tl.constexpr,
    SIDE: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EN: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Compute open cells as boxes of SIDE x SIDE pixels, two a tile over the same weights.

    For stride 1 and a G that SIDE divides. A box is one copy by the tensor memory accelerator: taps
    outside of the map arrive as zeros, and what of a box lies outside of y is not stored.

    With an odd number of boxes the second one of the last tile computes the first again and is not
    stored: with a residual in y's own memory it would be added twice.

    Args:
        x: descriptor of [N, H, W, C], box [1, SIDE, SIDE, BK].
        w: descriptor of [K, R * S, C], box [BN, 1, BK].
        residual, y: descriptors of [N, Ho, Wo, K], box [1, SIDE, SIDE, EN]; y's with its padding.
        EN: as for :func:`conv_rows`.
    """
    after_the_kernel_before(PDL)
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
        ones = tl.full((P,), 1.0, tl.float32)
        g0 = tl.load(gmap + cell0)
        g1 = tl.load(gmap + cell1)
        if g0 > 0:
            for part in tl.static_range(BN // EN):
                first = k0 + part * EN
                k = first + tl.arange(0, EN)
                out0 = finished(
                    part_of(acc0, part, BN // EN), ones * g0, bias, scale, offset, scale_stride, offset_stride, k, K, alpha
                )
                if has_residual > 0:
                    out0 += residual.load([n0, h0, w0, first]).reshape([P, EN]).to(tl.float32)
                y.store([n0, h0, w0, first], leaky(out0, post_alpha).to(y.dtype).reshape([1, SIDE, SIDE, EN]))
        if has_second & (g1 > 0):
            for part in tl.static_range(BN // EN):
                first = k0 + part * EN
                k = first + tl.arange(0, EN)
                out1 = finished(
                    part_of(acc1, part, BN // EN), ones * g1, bias, scale, offset, scale_stride, offset_stride, k, K, alpha
                )
                if has_residual > 0:
                    out1 += residual.load([n1, h1, w1, first]).reshape([P, EN]).to(tl.float32)
                y.store([n1, h1, w1, first], leaky(out1, post_alpha).to(y.dtype).reshape([1, SIDE, SIDE, EN]))


@triton.jit(do_not_specialize=SIZES)
def close_pixels(
    offset, residual, gmap, y, pixels, Ho, Wo, Hg, Wg, K, G,
    y_image, y_pixel, y_channel, y_channels, post_alpha, offset_stride, has_residual, keeps,
    BM: tl.constexpr, BN: tl.constexpr, EIGHTS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Write the pixels of closed cells: the affine's offset and the residual, activated.

    Args:
        pixels: N * Ho * Wo.
        y, y_channels: as for :func:`conv_rows`.
        residual: lies as y, read only where has_residual is 1; may be y.
        keeps: 1 where it is y and nothing is activated: channels without an offset are left alone.
    """
    after_the_kernel_before(PDL, LAST=True)
    y_image, y_pixel, y_channels = hinted(y_image, EIGHTS), hinted(y_pixel, EIGHTS), hinted(y_channels, EIGHTS)
    p = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    inside = p < pixels
    wo = p % Wo
    ho = (p // Wo) % Ho
    image = p // (Wo * Ho)
    cell = (image * Hg + ho // G) * Wg + wo // G
    is_closed = inside & (tl.load(gmap + cell, mask=inside, other=1.0) <= 0)
    pixel = image.to(tl.int64) * y_image + (ho * Wo + wo).to(tl.int64) * y_pixel
    place = pixel[:, None] + (n.to(tl.int64) * y_channel)[None, :]
    plus = tl.load(offset + n * offset_stride, mask=n < tl.where(offset_stride >= 0, K, 0), other=0.0)
    out = tl.zeros((BM, BN), tl.float32) + plus[None, :]
    changed = (plus != 0) | (n >= tl.where(keeps > 0, K, 0))
    mask = is_closed[:, None] & ((n < y_channels) & changed)[None, :]
    if has_residual > 0:
        added = tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
        out += tl.where((n < K)[None, :], added, 0.0)
    tl.store(y + place, leaky(out, post_alpha).to(y.dtype.element_ty), mask=mask)
