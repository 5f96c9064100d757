// Soft-DTW of many series at once (Cuturi & Blondel 2017), and its gradient (Mensch & Blondel 2018).
//
// A pair's matrix R has a row for each step of the center and a column for each step of the series. A lane computes it
// tile by tile, H x W cells in registers, with all loops unrolled: the cells of an anti-diagonal do not depend on each
// other. Data are scaled by sqrt(log2 e / gamma), so that a cell is
// R = D + least - log2(1 + 2^(least - middle) + 2^(least - high)).
//
// A center's rows are padded at the front to whole tiles, so that its last row is the last of a tile; padding is FAR
// from everything. Series lie as (steps, dim, series), so that 32 lanes read 32 neighbors. A block is one warp, which
// takes one job after another and keeps its values in a scratch of its own, lanes side by side. The launch bounds ask
// for only one block a processor, so that the compiler uses every register before it spills.
//
// real: float or double.  DIM: the number of dimensions, or 0 if it is known only at run time.  BANDED: whether a global
// constraint leaves each row only some columns. A row of tiles then has the tiles from its first row's first column to
// its last row's last one, and what lies outside of a row's own columns is FAR.

#define UNROLL _Pragma("unroll")

template <typename real> constexpr real FAR = sizeof(real) == 4 ? real(1e30f) : real(1e300);  // inf - inf would be NaN

#ifdef __CUDA_ARCH__
__device__ float exp2_of(float v) { asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(v)); return v; }
__device__ float log2_of(float v) { asm("lg2.approx.ftz.f32 %0, %0;" : "+f"(v)); return v; }
__device__ float inverse_of(float v) { asm("rcp.approx.ftz.f32 %0, %0;" : "+f"(v)); return v; }
__device__ double inverse_of(double v) {  // v is in [1, 3]; a general division would cost registers.
    double r;
    asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(r) : "d"(v));
    r = fma(r, fma(-v, r, 1.0), r);
    return fma(r, fma(-v, r, 1.0), r);
}
#else
__device__ float exp2_of(float v) { return exp2f(v); }
__device__ float log2_of(float v) { return log2f(v); }
__device__ float inverse_of(float v) { return 1.0f / v; }
__device__ double inverse_of(double v) { return 1.0 / v; }
#endif
__device__ double exp2_of(double v) { return exp2(v); }
__device__ double log2_of(double v) { return log2(v); }

// Returns the sum over each `width` lanes (a power of 2), always in the same order. All lanes must take part in the
// shuffles, so there are no branches.
template <typename real> __device__ real sum_lanes(real v, int width) {
    UNROLL for (int apart = 1; apart < 32; apart *= 2) {
        const real other = __shfl_xor_sync(0xffffffffu, v, apart);
        v += apart < width ? other : real(0);
    }
    return v;
}

__device__ int longest(int length) {
    UNROLL for (int apart = 1; apart < 32; apart *= 2) {
        const int other = __shfl_xor_sync(0xffffffffu, length, apart);
        length = other > length ? other : length;
    }
    return length;
}

// One lane's series.
template <typename real> struct Path {
    const real* x;
    long long stride;  // the distance from one dimension to the next
    int n_steps, dim;
    real scale;

    // A step beyond the end may be any finite number, because nothing flows back from there.
    __device__ const real* at(int step) const {
        return x + (long long)(step < n_steps ? step : n_steps - 1) * dim * stride;
    }
};

// A lane's columns of each row, under a global constraint. Neither the first nor the last of a row falls from row to row.
template <bool BANDED> struct Limits {
    const int* table;  // (n_rows, 2), the first column of each row and the last + 1

    __device__ int first(int row) const { return table[2 * (row > 0 ? row : 0)]; }
    __device__ int stop(int row) const { return table[2 * (row > 0 ? row : 0) + 1]; }
};

template <> struct Limits<false> {};

// A tile of R. `rows` are the center's: (H, DIM), padded to a multiple of 16 bytes. With DIM = 0 they are (dim + 1, H):
// each dimension of -2z, scaled twice so that x need not be scaled, then the squared norms.
template <typename real, int DIM, int H, int W> struct Tile {
    real column[H];                         // R of the column before the tile; after `pass`, of the tile's last column
    real row[W];                            // R of the row above the tile; after `pass`, of the tile's last row
    real steps[W][DIM ? DIM : 1];           // x
    real costs[H][W];                       // D, if DIM is 0
    real by_diagonal[H][W], by_left[H][W];  // probabilities of the ways into each cell; from above it is the rest of 1

    __device__ static int rows_size(int dim) { return (H * (DIM ? DIM : dim + 1) + 3) / 4 * 4; }

    // Set the column before the first one. `padding` rows lie between the tile's first row and the center's.
    __device__ void begin(int padding) {
        UNROLL for (int h = 0; h < H; h++) column[h] = h == padding - 1 ? real(0) : FAR<real>;
    }

    __device__ void read(const Path<real>& path, const real* rows, int first) {
        if constexpr (DIM == 0) measure(path, rows, first);
        UNROLL for (int w = 0; w < W; w++)
            UNROLL for (int c = 0; c < DIM; c++) steps[w][c] = path.scale * path.at(first + w)[c * path.stride];
    }

    // Compute all distances, dimension by dimension: |z|^2 - 2 z x + |x|^2.
    __device__ void measure(const Path<real>& path, const real* rows, int first) {
        const real* z = (const real*)__builtin_assume_aligned(rows, 16);
        real norms[W] = {};
        UNROLL for (int h = 0; h < H; h++)
            UNROLL for (int w = 0; w < W; w++) costs[h][w] = z[path.dim * H + h];
        _Pragma("unroll 1") for (int c = 0; c < path.dim; c++) {
            real x[W];
            UNROLL for (int w = 0; w < W; w++) {
                x[w] = path.at(first + w)[c * path.stride];
                norms[w] += x[w] * x[w];
            }
            UNROLL for (int h = 0; h < H; h++)
                UNROLL for (int w = 0; w < W; w++) costs[h][w] += z[c * H + h] * x[w];
        }
        UNROLL for (int h = 0; h < H; h++)
            UNROLL for (int w = 0; w < W; w++)
                costs[h][w] = fmax(costs[h][w] + path.scale * path.scale * norms[w], real(0));
    }

    // Load the numbers that row h needs and the rows before it did not, 16 bytes at a time.
    __device__ static void fetch(real* z, const real* rows, int h) {
        constexpr int SIZE = 16 / sizeof(real);
        struct alignas(16) Vector { real values[SIZE]; };
        UNROLL for (int i = (h * DIM + SIZE - 1) / SIZE; i * SIZE < (h + 1) * DIM; i++) {
            const Vector vector = ((const Vector*)rows)[i];
            UNROLL for (int v = 0; v < SIZE; v++) z[i * SIZE + v] = vector.values[v];
        }
    }

    __device__ real distance(const real* z, int h, int w) const {
        if constexpr (DIM == 0) return costs[h][w];
        real sum = 0;
        UNROLL for (int c = 0; c < DIM; c++) {
            const real apart = z[h * DIM + c] - steps[w][c];
            sum += apart * apart;
        }
        return sum;
    }

    // Carry R through the tile; `corner` is R above the column before it. KEEP stores the probabilities of the ways.
    // The tile's first cell is in row `top` of the center, which is negative in padding, and in column `start`.
    template <bool KEEP, bool BANDED>
    __device__ void pass(const real* rows, real corner, const Limits<BANDED>& limits, int top, int start) {
        real diagonal[W], z[(H * DIM + 3) / 4 * 4 + 1];
        int first[H], stop[H];
        UNROLL for (int w = 0; w < W; w++) diagonal[w] = w ? row[w - 1] : corner;
        UNROLL for (int wave = 0; wave < H + W - 1; wave++)
            UNROLL for (int w = 0; w < W; w++) {
                const int h = wave - w;
                if (h < 0 || h >= H) continue;
                if (w == 0) fetch(z, rows, h);
                if constexpr (BANDED)
                    if (w == 0) first[h] = limits.first(top + h) - start, stop[h] = limits.stop(top + h) - start;
                const real above = row[w], left = column[h];
                const real low = fmin(above, diagonal[w]), high = fmax(above, diagonal[w]);
                const real least = fmin(low, left), middle = fmax(low, left);
                const real second = exp2_of(least - middle), third = exp2_of(least - high);
                const real total = real(1) + second + third;
                if constexpr (KEEP) {
                    const real share = inverse_of(total);
                    by_left[h][w] = share * (left < low ? real(1) : second);
                    by_diagonal[h][w] = share * (diagonal[w] > above ? third : left < low ? second : real(1));
                }
                diagonal[w] = left;
                real value = distance(z, h, w) + least - log2_of(total);
                if constexpr (BANDED) value = w >= first[h] && w < stop[h] ? value : FAR<real>;
                row[w] = column[h] = value;
            }
    }
};
