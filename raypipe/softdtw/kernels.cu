// The kernels of soft-DTW. tiles.cu, which stands before this file when it is compiled, says how they compute.

// Finds the nearest of each chunk of centers to each series: values (chunks, n_series) and, unless null, labels.
//
// With one center a chunk and no labels the values are the matrix of all pairs. `which` says which pairs are computed:
// 0: all; 1: all except those of a center (numbered from `first`) with a series of a lower number; 2: each series with
// its own center. A pair's limits begin in row row_places[center] + column_places[series] of `limits`, (rows, 2).
template <typename real, int DIM, int H, int W, bool BANDED = false>
__global__ void __launch_bounds__(32, 1) assign(
    const real* __restrict__ x, const int* __restrict__ lengths, int n_series, int n_steps, int dim, real scale,
    const real* __restrict__ z, const int* __restrict__ z_lengths, int n_centers, int n_tiles, int chunk,
    const real* __restrict__ offsets, real unit, int first, int which, real* __restrict__ scratch,
    real* __restrict__ values, int* __restrict__ labels, const int* __restrict__ limits,
    const int* __restrict__ row_places, const int* __restrict__ column_places) {
    using Cells = Tile<real, DIM, H, W>;
    const int groups = (n_series + 31) / 32, chunks = (n_centers + chunk - 1) / chunk;
    const long long lanes = 32ll * gridDim.x;
    real* kept = scratch + 32ll * blockIdx.x + threadIdx.x;  // the last row of the tiles above, step by step
    for (long long job = blockIdx.x; job < (long long)groups * chunks; job += gridDim.x) {
        const int part = job / groups, group = (job + part) % groups;  // so a triangle loads all blocks evenly
        if (which == 1 && group * 32 + 31 < first + part * chunk) continue;
        const int place = group * 32 + threadIdx.x, n = place < n_series ? place : n_series - 1;
        const Path<real> path{x + n, n_series, n_steps, dim, scale};
        const int length = lengths ? lengths[n] : n_steps, across = longest(length);
        const int start = which == 2 ? n : part * chunk, end = which == 2 ? n + 1 : start + chunk;
        const int stop = end < n_centers ? end : n_centers;
        real best = 0, best_value = 0;
        int label = -1;
        for (int center = start; center < stop; center++) {
            const int n_rows = z_lengths[center], down = (n_rows + H - 1) / H, padding = down * H - n_rows;
            const real* rows = z + (long long)center * n_tiles * Cells::rows_size(dim);
            Limits<BANDED> bounds;
            if constexpr (BANDED) bounds.table = limits + 2ll * (row_places[center] + column_places[n]);
            Cells cells;
            real value = 0;
            int begin = 0, stop_step = across;  // of the row of tiles, in steps
            for (int i = 0; i < down; i++, rows += Cells::rows_size(dim)) {
                cells.begin(padding - i * H);
                real corner = padding == i * H ? real(0) : FAR<real>;
                const int above_begin = begin, above_stop = stop_step;
                if constexpr (BANDED) {
                    begin = bounds.first(i * H - padding), stop_step = bounds.stop((i + 1) * H - 1 - padding);
                    // Lanes stay at one step, to read neighbors; but of centers of their own they have other rows.
                    if (which != 2) begin = -longest(-begin), stop_step = longest(stop_step);
                    begin -= begin % W;
                    if (begin > above_begin) corner = kept[(begin - 1) * lanes];
                }
                for (int step = begin; step < stop_step; step += W) {
                    const bool met = BANDED ? i && step < above_stop : i;  // by the row of tiles above
                    UNROLL for (int w = 0; w < W; w++) cells.row[w] = met ? kept[(step + w) * lanes] : FAR<real>;
                    const real next = cells.row[W - 1];
                    cells.read(path, rows, step);
                    cells.template pass<false>(rows, corner, bounds, i * H - padding, step);
                    corner = next;
                    UNROLL for (int w = 0; w < W; w++) {
                        if (i < down - 1) kept[(step + w) * lanes] = cells.row[w];
                        value = step + w == length - 1 ? cells.row[w] : value;
                    }
                }
            }
            value *= unit;
            const real score = value - (offsets ? offsets[center] : real(0));
            if (label < 0 || score < best) best = score, best_value = value, label = center;
        }
        if (place < n_series) {
            values[(long long)part * n_series + n] = best_value;
            if (labels) labels[(long long)part * n_series + n] = label;
        }
    }
}

// Numbers from the first one on, up to the one before `stop`.
struct Span {
    int first, stop;
};

// A pair's expected alignment E, computed by `team` lanes: each takes every team-th row of tiles and stays one tile
// behind the lane above it. 32 / team `pairs` of one center run side by side, and their sums are added up.
template <typename real, int DIM, int H, int W, bool BANDED> struct Alignment {
    using Cells = Tile<real, DIM, H, W>;
    static constexpr int KEPT = W + H;  // of each tile its last row (later E from below) and the column before it
    static constexpr int TOGETHER = 8;  // dimensions at a time
    Cells cells;
    Path<real> path;
    const real* z;
    real *scratch, *trail;
    double* sums;  // (n_rows, 1 + dim), mass and weighted steps: real within a round, double over the rounds
    real right[H], past_corner;                 // E that comes from the tile on the right
    real mass[H], moved[H][DIM ? DIM : 1];      // sums of E and of E x over a row of tiles
    real weight;
    Limits<BANDED> limits;
    Span own, above, below;  // the tiles of the lane's row of tiles, and of those above it and below it
    int length, down, across, padding, pairs, team, member;
    bool fresh;  // in the first round of a job the sums begin at 0

    // Of each row of tiles there is room for `across` tiles.
    __device__ real* kept(int i, int j, const Span& span) const {
        return scratch + ((long long)i * across + j - span.first) * KEPT * pairs;
    }

    // Returns which tiles a row of tiles has: from the column before its first row's first one, which E may come to.
    __device__ Span find(int i) const {
        if constexpr (!BANDED) return {0, across};
        else {
            if (i < 0 || i >= down) return {1 << 30, -(1 << 30)};
            const int first = limits.first(i * H - padding), stop = limits.stop((i + 1) * H - 1 - padding);
            return {(first > 0 ? first - 1 : 0) / W, (stop + W - 1) / W};
        }
    }

    // Begin with a strip of rows of tiles, a row for each member of the team; return the turns it takes.
    __device__ Span begin(int strip) {
        const int i = strip + member;
        own = find(i), above = find(i - 1), below = find(i + 1);
        if constexpr (!BANDED) return {0, across + team - 1};
        else return {-longest(-own.first - member), longest(own.stop + member)};
    }

    __device__ bool has(int i, int j) const { return i < down && j >= own.first && j < own.stop; }

    // Add to column `which` of the sums, in the row that is the tile's row h.
    __device__ void add(int i, int h, int which, real v) {
        const int row = i * H + h - padding;
        const bool here = i < down && row >= 0 && which <= path.dim && threadIdx.x % pairs == 0;
        double* sum = sums + row * (1 + path.dim) + which;
        v = sum_lanes(v, pairs);
        const double before = here && !fresh ? *sum : 0.0;
        if (here) *sum = before + (double)v;
    }

    // Load the row above a tile, and before the first tile also the column, and return the corner.
    __device__ real enter(int i, int j) {
        const real* over = kept(i - 1, j, above);
        const bool met = i && (!BANDED || j < above.stop);
        const bool met_corner = i && (!BANDED || (j > above.first && j <= above.stop));
        if (j == own.first) cells.begin(padding - i * H);
        UNROLL for (int w = 0; w < W; w++) cells.row[w] = met ? over[w * pairs] : FAR<real>;
        cells.read(path, rows(i), j * W);
        if (j == 0) return padding == i * H ? real(0) : FAR<real>;
        return met_corner ? over[(W - 1 - KEPT) * pairs] : FAR<real>;
    }

    __device__ const real* rows(int i) const { return z + i * Cells::rows_size(path.dim); }

    // Returns the value of soft-DTW, at the lane that holds it.
    __device__ real forward() {
        real value = 0;
        for (int strip = 0; strip < down; strip += team) {
            const int i = strip + member;
            const Span turns = begin(strip);
            for (int turn = turns.first; turn < turns.stop; turn++) {
                const int j = turn - member;
                if (has(i, j)) {
                    const real corner = enter(i, j);
                    real* tile = kept(i, j, own);
                    UNROLL for (int h = 0; h < H; h++) tile[(W + h) * pairs] = cells.column[h];
                    cells.template pass<false>(rows(i), corner, limits, i * H - padding, j * W);
                    UNROLL for (int w = 0; w < W; w++) {
                        tile[w * pairs] = cells.row[w];
                        if (i == down - 1 && j * W + w == length - 1) value = cells.row[w];
                    }
                }
                __syncwarp();
            }
        }
        return value;
    }

    // E flows backwards from the last cell, where it is the series' weight: each cell's E is divided among the cells
    // before it, by the probabilities of the ways. A tile's probabilities are computed again from what `forward` kept.
    __device__ void backward() {
        for (int strip = (down - 1) / team * team; strip >= 0; strip -= team) {
            const int i = strip + member;
            const Span turns = begin(strip);
            past_corner = 0;
            UNROLL for (int h = 0; h < H; h++) {
                right[h] = mass[h] = 0;
                UNROLL for (int c = 0; c < DIM; c++) moved[h][c] = 0;
            }
            for (int turn = turns.first; turn < turns.stop; turn++) {
                const int j = turns.stop - 1 - turn + turns.first - member;
                if (has(i, j)) {
                    const real corner = enter(i, j);
                    real *tile = kept(i, j, own), *over = kept(i - 1, j, above), under[W];
                    UNROLL for (int h = 0; h < H; h++) cells.column[h] = tile[(W + h) * pairs];
                    cells.template pass<true>(rows(i), corner, limits, i * H - padding, j * W);
                    const bool met = !BANDED || j >= below.first;
                    UNROLL for (int w = 0; w < W; w++)
                        under[w] = i < down - 1 ? met ? tile[w * pairs] : real(0)
                                                : j * W + w == length - 1 ? weight : real(0);
                    spread(j - own.first, under);
                    UNROLL for (int w = 0; w < W; w++)
                        if (i && (!BANDED || j < above.stop)) over[w * pairs] = under[w];
                }
                __syncwarp();
            }
            UNROLL for (int h = 0; h < H; h++) {
                add(i, h, 0, mass[h]);
                UNROLL for (int c = 0; c < DIM; c++) add(i, h, 1 + c, moved[h][c]);
            }
            if constexpr (DIM == 0) add_trail(i);
        }
    }

    // Carry E through a tile, which is number `place` of its row: from its right and lower edge to its left and upper edge.
    __device__ void spread(int place, real (&below)[W]) {
        real passed = 0;  // E from the first cell of the row before, into the column before the tile
        UNROLL for (int h = H - 1; h >= 0; h--) {
            real leaning = 0;
            UNROLL for (int w = W - 1; w >= 0; w--) {
                const real e = right[h] + below[w];
                const real diagonal = e * cells.by_diagonal[h][w], left = e * cells.by_left[h][w];
                right[h] = left;
                below[w] = (e - diagonal - left) + leaning;
                leaning = diagonal;
                mass[h] += e;
                UNROLL for (int c = 0; c < DIM; c++) moved[h][c] += e * cells.steps[w][c];
                if constexpr (DIM == 0) trail[((place * W + w) * H + h) * 32] = e;
            }
            right[h] += passed;
            passed = leaning;
        }
        below[W - 1] += past_corner;
        past_corner = passed;
    }

    // If DIM is 0, no lane has a register for every dimension, so the sums of E x are made here, some dimensions at a
    // time.
    __device__ void add_trail(int i) {
        for (int first = 0; first < path.dim; first += TOGETHER) {
            real met[H][TOGETHER] = {};
            _Pragma("unroll 1") for (int step = 0; i < down && step < (own.stop - own.first) * W; step++) {
                const real* x = path.at(own.first * W + step) + first * path.stride;
                UNROLL for (int c = 0; c < TOGETHER; c++) {
                    const real v = first + c < path.dim ? path.scale * x[c * path.stride] : real(0);
                    UNROLL for (int h = 0; h < H; h++) met[h][c] += trail[(step * H + h) * 32] * v;
                }
            }
            UNROLL for (int h = 0; h < H; h++)
                UNROLL for (int c = 0; c < TOGETHER; c++) add(i, h, 1 + first + c, met[h][c]);
        }
    }
};

// Sums values and expected alignments over series of one center. `members` are the series sorted by center, `jobs`
// (n_jobs, 3): center, first and last + 1 of its members; `sums` (n_jobs, n_rows (1 + dim) + 1), the value last. A
// series' limits begin in row column_places[series] of `limits`, (rows, 2); no row of tiles has more than `room` tiles.
template <typename real, int DIM, int H, int W, bool BANDED = false>
__global__ void __launch_bounds__(32, 1) statistics(
    const real* __restrict__ x, const int* __restrict__ lengths, int n_series, int n_steps, int dim, real scale,
    const real* __restrict__ z, int n_rows, const int* __restrict__ members, const real* __restrict__ weights,
    const int* __restrict__ jobs, int n_jobs, int team, real unit, real* __restrict__ scratch,
    double* __restrict__ sums, const int* __restrict__ limits, const int* __restrict__ column_places, int room) {
    using Pair = Alignment<real, DIM, H, W, BANDED>;
    const int pairs = 32 / team, pair = threadIdx.x % pairs, size = n_rows * (1 + dim) + 1;
    Pair it;
    it.team = team, it.pairs = pairs, it.member = threadIdx.x / pairs;
    it.down = (n_rows + H - 1) / H, it.padding = it.down * H - n_rows;
    const int most = BANDED ? room : (n_steps + W - 1) / W;
    const long long tiles = (long long)it.down * most * Pair::KEPT * pairs, trail = DIM ? 0 : most * W * H * 32;
    scratch += blockIdx.x * (tiles + trail);
    it.scratch = scratch + pair, it.trail = scratch + tiles + threadIdx.x;
    for (int job = blockIdx.x; job < n_jobs; job += gridDim.x) {
        const int center = jobs[3 * job], begin = jobs[3 * job + 1], end = jobs[3 * job + 2];
        it.z = z + (long long)center * it.down * Pair::Cells::rows_size(dim);
        it.sums = sums + (long long)job * size;
        for (int round = begin; round < end; round += pairs) {
            const bool live = round + pair < end;
            const int n = members[live ? round + pair : round];
            it.path = {x + n, n_series, n_steps, dim, scale};
            it.weight = !live ? real(0) : weights ? weights[n] : real(1);
            it.length = lengths ? lengths[n] : n_steps;
            it.across = BANDED ? room : (longest(it.length) + W - 1) / W;
            if constexpr (BANDED) it.limits.table = limits + 2ll * column_places[n];
            it.fresh = round == begin;
            const real value = sum_lanes(it.weight * unit * it.forward(), 32);
            if (threadIdx.x == 0) it.sums[size - 1] = (it.fresh ? 0.0 : it.sums[size - 1]) + (double)value;
            it.backward();
        }
    }
}

// Adds up each center's jobs, which lie from starts[center] to starts[center + 1]: (n_centers, size).
template <typename real>
__global__ void __launch_bounds__(32) total(
    const real* __restrict__ sums, const int* __restrict__ starts, int n_centers, int size, real* __restrict__ totals) {
    for (long long at = 32ll * blockIdx.x + threadIdx.x; at < (long long)n_centers * size; at += 32ll * gridDim.x) {
        const int center = at / size, which = at % size;
        real sum = 0;
        for (int job = starts[center]; job < starts[center + 1]; job++) sum += sums[(long long)job * size + which];
        totals[at] = sum;
    }
}
