/* Sweeps over a tile of weights, float32 [rows, columns]; a stride is the floats between rows. Every operation and the
   order of every sum is torch's, so the bits are too (fused.py). */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define LANES 64 /* columns at a time: four vectors of AVX-512, and tiles have no other number of them */
#define LEVELS 4 /* of sums of sums, as in ATen/native/cpu/SumKernel.cpp */

static inline float code(float weight, float scale, float zero, float top) {
    float nearest = rintf(zero + weight / scale);
    nearest = nearest < 0 ? 0 : nearest;
    return nearest > top ? top : nearest;
}

/* The least and the largest weight of each column of each group of rows; none is a number where one is not. */
void extremes(const float *weight, ptrdiff_t groups, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t stride, float *low,
              float *high) {
    for (ptrdiff_t at = 0; at < groups * columns; at += LANES) {
        const float *tile = weight + at / columns * rows * stride + at % columns;
        float least[LANES], most[LANES];
        for (int lane = 0; lane < LANES; lane++) least[lane] = most[lane] = tile[lane];
        for (ptrdiff_t row = 1; row < rows; row++)
            for (int lane = 0; lane < LANES; lane++) {
                float given = tile[row * stride + lane];
                least[lane] = given < least[lane] || given != given ? given : least[lane];
                most[lane] = given > most[lane] || given != given ? given : most[lane];
            }
        for (int lane = 0; lane < LANES; lane++) {
            low[at + lane] = least[lane];
            high[at + lane] = most[lane];
        }
    }
}

/* Of several grids, a scale and a zero point for each column of each group of rows, the one with the least sum over rows
   of (decoded - weight)^2, and that sum; the earlier one where two are alike. */
void closest(const float *weight, ptrdiff_t groups, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t stride,
             const float *scales, const float *zeros, ptrdiff_t grids, float top, int power, float *scale, float *zero,
             float *least) {
    ptrdiff_t step = (ptrdiff_t)1 << power;
    for (ptrdiff_t at = 0; at < groups * columns; at += LANES) {
        const float *tile = weight + at / columns * rows * stride + at % columns;
        for (ptrdiff_t grid = 0; grid < grids; grid++) {
            const float *steps = scales + grid * groups * columns + at, *middles = zeros + grid * groups * columns + at;
            float sums[LEVELS][LANES] = {{0}};
            for (ptrdiff_t row = 0; row < rows; row++) {
                for (int lane = 0; lane < LANES; lane++) {
                    float given = tile[row * stride + lane];
                    float decoded = (code(given, steps[lane], middles[lane], top) - middles[lane]) * steps[lane];
                    float off = decoded - given;
                    sums[0][lane] += off * off;
                }
                for (int level = 1; level < LEVELS && (row + 1) % (step << (level - 1) * power) == 0; level++)
                    for (int lane = 0; lane < LANES; lane++) {
                        sums[level][lane] += sums[level - 1][lane];
                        sums[level - 1][lane] = 0;
                    }
            }
            for (int lane = 0; lane < LANES; lane++) {
                float error = sums[0][lane];
                for (int level = 1; level < LEVELS; level++) error += sums[level][lane];
                int better = grid == 0 || error < least[at + lane];
                least[at + lane] = better ? error : least[at + lane];
                scale[at + lane] = better ? steps[lane] : scale[at + lane];
                zero[at + lane] = better ? middles[lane] : zero[at + lane];
            }
        }
    }
}

/* The codes as bytes. */
void encode(const float *weight, ptrdiff_t groups, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t stride,
            const float *scale, const float *zero, float top, uint8_t *codes, ptrdiff_t codes_stride) {
    for (ptrdiff_t row = 0; row < groups * rows; row++) {
        const float *steps = scale + row / rows * columns, *middles = zero + row / rows * columns;
        for (ptrdiff_t column = 0; column < columns; column++)
            codes[row * codes_stride + column] =
                (uint8_t)(int32_t)code(weight[row * stride + column], steps[column], middles[column], top);
    }
}

/* GPTQ's rows of one stripe, one after another: each is rounded, and pulls those that follow by its error. */
void round_rows(float *target, const float *shifted, ptrdiff_t rows, ptrdiff_t columns, const float *pull,
                ptrdiff_t pull_stride, ptrdiff_t pull_step, const float *scale, const float *zero, ptrdiff_t grid_stride, float top, float *codes,
                float *errors) {
    for (ptrdiff_t from = 0; from < columns; from += LANES) {
        int lanes = columns - from < LANES ? (int)(columns - from) : LANES;
        for (ptrdiff_t row = 0; row < rows; row++) {
            ptrdiff_t at = row * columns + from;
            const float *step = scale + row * grid_stride + from, *middle = zero + row * grid_stride + from;
            float wanted[LANES];
            for (int lane = 0; lane < lanes; lane++) wanted[lane] = target[at + lane];
            for (ptrdiff_t before = 0; before < row; before++) {
                float share = pull[row * pull_stride + before * pull_step];
                for (int lane = 0; lane < lanes; lane++)
                    wanted[lane] = fmaf(share, errors[before * columns + from + lane], wanted[lane]);
            }
            for (int lane = 0; lane < lanes; lane++) {
                float rounded = code(wanted[lane], step[lane], middle[lane], top);
                codes[at + lane] = rounded;
                errors[at + lane] = fmaf(-rounded, step[lane], shifted[at + lane]);
            }
        }
    }
}
