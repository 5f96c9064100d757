// The kernels of soft-DTW. tiles.cu, which stands before this file when it is compiled, says how they compute.

// Finds the nearest of each chunk of centers to each series: values (chunks, n_series) and, unless null, labels.
//
// With one center a chunk and no labels the values are the matrix of all pairs. `which` says which pairs are computed:
// 0: all; 1: all except those of a center (numbered from `first`) with a series of a lower number; 2: each series with
// its own center.
template <typename real, int DIM, int H, int W>
__global__ void __launch_bounds__(32, 1) assign(
    const real* __restrict__ x, const int* __restrict__ lengths, int n_series, int n_steps, int dim, real scale,
    const real* __restrict__ z, const int* __restrict__ z_lengths, int n_centers, int n_tiles, int chunk,
    const real* __restrict__ offsets, real unit, int first, int which, real* __restrict__ scratch,
    real* __restrict__ values, int* __restrict__ labels) {
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
            Cells cells;
            real value = 0;
            for (int i = 0; i < down; i++, rows += Cells::rows_size(dim)) {
                cells.begin(padding - i * H);
                real corner = padding == i * H ? real(0) : FAR<real>;
                for (int step = 0; step < across; step += W) {
                    UNROLL for (int w = 0; w < W; w++) cells.row[w] = i ? kept[(step + w) * lanes] : FAR<real>;
                    const real next = cells.row[W - 1];
                    cells.read(path, rows, step);
                    cells.template pass<false>(rows, corner);
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

// A pair's expected alignment E, computed by `team` lanes: each takes every team-th row of tiles and stays one tile
// behind the lane above it. 32 / team `pairs` of one center run side by side, and their sums are added up.
template <typename real, int DIM, int H, int W> struct Alignment {
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
    int length, down, across, padding, pairs, team, member;
    bool fresh;  // in the first round of a job the sums begin at 0

    __device__ real* kept(int i, int j) const { return scratch + ((long long)i * across + j) * KEPT * pairs; }

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
        const real* above = kept(i - 1, j);
        if (j == 0) cells.begin(padding - i * H);
        UNROLL for (int w = 0; w < W; w++) cells.row[w] = i ? above[w * pairs] : FAR<real>;
        cells.read(path, rows(i), j * W);
        if (j == 0) return padding == i * H ? real(0) : FAR<real>;
        return i ? above[(W - 1 - KEPT) * pairs] : FAR<real>;
    }

    __device__ const real* rows(int i) const { return z + i * Cells::rows_size(path.dim); }

    // Returns the value of soft-DTW, at the lane that holds it.
    __device__ real forward() {
        real value = 0;
        for (int band = 0; band < down; band += team) {
            const int i = band + member;
            for (int turn = 0; turn < across + team - 1; turn++) {
                const int j = turn - member;
                if (i < down && j >= 0 && j < across) {
                    const real corner = enter(i, j);
                    real* tile = kept(i, j);
                    UNROLL for (int h = 0; h < H; h++) tile[(W + h) * pairs] = cells.column[h];
                    cells.template pass<false>(rows(i), corner);
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
        for (int band = (down - 1) / team * team; band >= 0; band -= team) {
            const int i = band + member;
            past_corner = 0;
            UNROLL for (int h = 0; h < H; h++) {
                right[h] = mass[h] = 0;
                UNROLL for (int c = 0; c < DIM; c++) moved[h][c] = 0;
            }
            for (int turn = 0; turn < across + team - 1; turn++) {
                const int j = across - 1 - turn + (team - 1 - member);
                if (i < down && j >= 0 && j < across) {
                    const real corner = enter(i, j);
                    real *tile = kept(i, j), *above = kept(i - 1, j), below[W];
                    UNROLL for (int h = 0; h < H; h++) cells.column[h] = tile[(W + h) * pairs];
                    cells.template pass<true>(rows(i), corner);
                    UNROLL for (int w = 0; w < W; w++)
                        below[w] = i < down - 1 ? tile[w * pairs] : j * W + w == length - 1 ? weight : real(0);
                    spread(j, below);
                    UNROLL for (int w = 0; w < W; w++)
                        if (i) above[w * pairs] = below[w];
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

    // Carry E through a tile: from its right and lower edge to its left and upper edge.
    __device__ void spread(int j, real (&below)[W]) {
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
                if constexpr (DIM == 0) trail[((j * W + w) * H + h) * 32] = e;
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
            _Pragma("unroll 1") for (int step = 0; i < down && step < across * W; step++) {
                const real* x = path.at(step) + first * path.stride;
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
// (n_jobs, 3): center, first and last + 1 of its members; `sums` (n_jobs, n_rows (1 + dim) + 1), the value last.
template <typename real, int DIM, int H, int W>
__global__ void __launch_bounds__(32, 1) statistics(
    const real* __restrict__ x, const int* __restrict__ lengths, int n_series, int n_steps, int dim, real scale,
    const real* __restrict__ z, int n_rows, const int* __restrict__ members, const real* __restrict__ weights,
    const int* __restrict__ jobs, int n_jobs, int team, real unit, real* __restrict__ scratch,
    double* __restrict__ sums) {
    using Pair = Alignment<real, DIM, H, W>;
    const int pairs = 32 / team, pair = threadIdx.x % pairs, size = n_rows * (1 + dim) + 1;
    Pair it;
    it.team = team, it.pairs = pairs, it.member = threadIdx.x / pairs;
    it.down = (n_rows + H - 1) / H, it.padding = it.down * H - n_rows;
    const int most = (n_steps + W - 1) / W;
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
            it.across = (longest(it.length) + W - 1) / W;
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
