// Insertion of weighed images into an accumulator: the adjoint of extraction, shift and CTF.
//
// Most of an image's poses have no weight. So those that have are listed first, and blocks share out pieces of their
// slices: else the few blocks that meet the likeliest poses would keep all others waiting.

#define PIECE 1024  // points of a slice that a block inserts at a time

// List the poses of at least a weight, in any order. weight (n_poses); count (1), zero before; listed (n_poses): the
// first *count are written.
extern "C" __global__ void list_poses(const float* __restrict__ weight, int n_poses, float minimum_weight,
    int* __restrict__ count, int* __restrict__ listed)
{
    const int pose = (int)global_index(), lane = threadIdx.x % WARP;
    const bool used = pose < n_poses && weight[pose] >= minimum_weight;
    const unsigned together = __ballot_sync(FULL_WARP, used);
    int first = 0;
    if (lane == 0 && together) first = atomicAdd(count, __popc(together));
    first = __shfl_sync(FULL_WARP, first, 0);
    if (used) listed[first + __popc(together & ((1u << lane) - 1u))] = pose;
}

// accumulator (2 radius + 1, 2 radius + 1, radius + 1, 4); weighed (3, n, n_points); rotation (n, K, 3, 3);
// shift (n, K, 2); weight (n, K); count, listed: from list_poses; gain: a factor for all. core < 0: none.
// Blocks go through pieces of slices in strides of the grid. Shared: 3 (2 core + 1)^2 (core + 1) floats.
extern "C" __global__ void __launch_bounds__(256) insert_slices(float4* __restrict__ accumulator, int radius, float pad,
    const float* __restrict__ kx, const float* __restrict__ ky, const float* __restrict__ weighed,
    const float* __restrict__ rotation, const float* __restrict__ shift, const float* __restrict__ weight,
    const int* __restrict__ count, const int* __restrict__ listed, int n, int n_samples, int n_points,
    float phase_scale, float gain, int core)
{
    SHARED(float, inner);
    const BlockSums<3> sums(inner, accumulator, radius, core);
    sums.clear();
    const long long size = (long long)n * n_points;
    const int pieces = (n_points + PIECE - 1) / PIECE;
    const long long items = (long long)*count * pieces;
    for (long long item = blockIdx.x; item < items; item += gridDim.x) {
        const long long pose = listed[item / pieces];
        const int begin = (int)(item % pieces) * PIECE, end = min(begin + PIECE, n_points);
        const float w = weight[pose] * gain;
        const float* const image = weighed + (pose / n_samples) * n_points;
        float r[6];
        slice_axes(rotation + 9 * pose, pad, r);
        for (int p = begin + threadIdx.x; p < end; p += blockDim.x) {
            const float x = kx[p], y = ky[p];
            const Place at = locate(r, x, y, radius);
            const float2 phase = shift_phase(x, y, shift[2 * pose], shift[2 * pose + 1], phase_scale);
            const float cross_re = image[p], cross_im = image[size + p];
            // cross holds a factor two
            const float re = 0.5f * w * (cross_re * phase.x + cross_im * phase.y);
            const float im = 0.5f * w * (cross_im * phase.x - cross_re * phase.y) * at.sign;
            const float power = w * image[2 * size + p];
            sums.add(at, re, im, power);
        }
    }
    sums.flush();
}
