// What insertion makes of a cube's own slices: extraction, times power weight, and its adjoint. Shifts are undone by their
// adjoint, and a point folded to its Friedel mate is folded back: neither shows.

// cube (2 radius + 1, 2 radius + 1, radius + 1); accumulator the same with vectors of four, of which only the numerator
// grows; power (n, n_points); rotation (n, K, 3, 3); weight (n, K): poses below minimum_weight are left out; gain: a
// factor for all. Blocks go through the poses in strides of the grid, and as in insertion keep sums of their own within
// `core` of the origin. Shared: 2 (2 core + 1)^2 (core + 1) floats.
extern "C" __global__ void __launch_bounds__(256) normal_slices(const float2* __restrict__ cube,
    float4* __restrict__ accumulator, int radius, float pad, const float* __restrict__ kx,
    const float* __restrict__ ky, const float* __restrict__ power, const float* __restrict__ rotation,
    const float* __restrict__ weight, int n, int n_samples, int n_points, float minimum_weight, float gain, int core)
{
    SHARED(float, inner);
    const BlockSums<2> sums(inner, accumulator, radius, core);
    sums.clear();
    const long long poses = (long long)n * n_samples;
    for (long long pose = blockIdx.x; pose < poses; pose += gridDim.x) {
        if (weight[pose] < minimum_weight) continue;
        const float w = weight[pose] * gain;
        const float* const image = power + (pose / n_samples) * n_points;
        float r[6];
        slice_axes(rotation + 9 * pose, pad, r);
        for (int p = threadIdx.x; p < n_points; p += blockDim.x) {
            const Place at = locate(r, kx[p], ky[p], radius);
            const float2 value = gather(cube, at, radius);
            const float re = w * image[p] * value.x, im = w * image[p] * value.y * at.sign;
            sums.add(at, re, im, 0.f);
        }
    }
    sums.flush();
}
