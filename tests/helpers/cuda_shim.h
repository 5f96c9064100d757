// Runs CUDA kernels of one-warp blocks on the CPU: blocks one after another, the 32 lanes of a block as fibers that
// stop at every __shfl_xor_sync and __syncwarp until all have come there. What races between two such points shows as
// a difference between SHIM_ORDER = 0 and 1, in which lanes run forwards and backwards.
#pragma once
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __launch_bounds__(...)
#define __restrict__

struct Index {
    unsigned x;
};
static Index threadIdx, blockIdx, gridDim;

namespace shim {
constexpr int LANES = 32, STACK = 1 << 18;
struct Fiber {
    ucontext_t start;
    jmp_buf here;
    bool begun, done;
    long stops;
    char* stack;
};
static Fiber fibers[LANES];
static jmp_buf scheduler;
static int lane;
static void (*body)(void*);
static void* body_arguments;
alignas(16) static unsigned char exchanged[2][LANES][16];
static long long exponentials;  // that kernels have computed; of each cell of soft-DTW two

[[noreturn]] inline void fail(const char* what) {
    fprintf(stderr, "cuda_shim: %s (block %u, lane %d)\n", what, blockIdx.x, lane);
    abort();
}

// Wait until all lanes have stopped once more; _setjmp saves no signal mask, so a switch is no system call.
inline void stop() {
    fibers[lane].stops++;
    if (!_setjmp(fibers[lane].here)) _longjmp(scheduler, 1);
}

inline void enter() {
    body(body_arguments);
    fibers[lane].done = true;
    _longjmp(scheduler, 1);
}

inline void resume(int which) {
    Fiber& fiber = fibers[which];
    lane = threadIdx.x = which;
    if (_setjmp(scheduler)) return;
    if (fiber.begun) _longjmp(fiber.here, 1);
    fiber.begun = true;
    getcontext(&fiber.start);
    if (!fiber.stack) fiber.stack = (char*)malloc(STACK);
    fiber.start.uc_stack.ss_sp = fiber.stack;
    fiber.start.uc_stack.ss_size = STACK;
    fiber.start.uc_link = nullptr;
    makecontext(&fiber.start, enter, 0);
    setcontext(&fiber.start);
}

inline void run_block(bool backwards) {
    for (Fiber& fiber : fibers) fiber.begun = fiber.done = false, fiber.stops = 0;
    for (volatile bool running = true; running;) {
        for (volatile int i = 0; i < LANES; i = i + 1) resume(backwards ? LANES - 1 - i : i);
        for (const Fiber& fiber : fibers)
            if (fiber.done != fibers[0].done || fiber.stops != fibers[0].stops) fail("lanes part at a barrier");
        running = !fibers[0].done;
    }
}

template <class... Arguments> struct Call {
    void (*kernel)(Arguments...);
    void** given;
    template <size_t... I> void apply(std::index_sequence<I...>) const { kernel(*(Arguments*)given[I]...); }
    static void run(void* self) { ((Call*)self)->apply(std::index_sequence_for<Arguments...>{}); }
};

// As cuLaunchKernel: `given` are pointers to the arguments.
template <class... Arguments>
void launch(void (*kernel)(Arguments...), int blocks, bool backwards, void** given) {
    Call<Arguments...> call{kernel, given};
    body = Call<Arguments...>::run, body_arguments = &call;
    gridDim.x = blocks;
    for (int block = 0; block < blocks; block++) blockIdx.x = block, run_block(backwards);
    body_arguments = nullptr;
}
}  // namespace shim

inline void __syncwarp() { shim::stop(); }

template <class T> T __shfl_xor_sync(unsigned mask, T value, int apart) {
    static_assert(sizeof(T) <= 16, "too large to exchange");
    if (mask != 0xffffffffu) shim::fail("only whole warps are modelled");
    const int side = shim::fibers[shim::lane].stops & 1;  // written again only after all have stopped once more
    *(T*)shim::exchanged[side][shim::lane] = value;
    shim::stop();
    return *(T*)shim::exchanged[side][shim::lane ^ apart];
}

#define exp2f(v) (shim::exponentials++, exp2f(v))
#define exp2(v) (shim::exponentials++, exp2(v))
