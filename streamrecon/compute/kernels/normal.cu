// What insertion makes of a cube's own slices: extraction, times power weight, and its adjoint. Shifts are undone by their
// adjoint, and a point folded to its Friedel mate is folded back: neither shows.

// cube (2 radius + 1, 2 radius + 1, radius + 1); accumulator the same with vectors of four, of which only the numerator
// grows; power (n, n_points); rotation (n, K, 3, 3); weight (n, K): poses below minimum_weight are left out; gain: a
// factor for all. Blocks go through the poses in strides of the grid, and as in insert.cu keep sums of their own within
// `core` of the origin. Shared: 2 (2 core + 1)^2 (core + 1) floats.
extern "C" __global__ void __launch_bounds__(256) normal_slices(const float2* __restrict__ cube,
    float4* __restrict__ accumulator, int radius, float pad, const float* __restrict__ kx,
    const float* __restrict__ ky, const float* __restrict__ power, const float* __restrict__ rotation,
    const float* __restrict__ weight, int n, int n_samples, int n_points, float minimum_weight, float gain, int core)
{
    SHARED(float, inner);
    const int core_side = 2 * core + 1, core_size = core >= 0 ? core_side * core_side * (core + 1) : 0;
    const int row = radius + 1, plane = row * (2 * radius + 1);
    for (int i = threadIdx.x; i < 2 * core_size; i += blockDim.x) inner[i] = 0.f;
    __syncthreads();
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
            const int cy = at.iy - radius + core, cz = at.iz - radius + core;
            const bool inside = at.ix < core && cy >= 0 && cy < 2 * core && cz >= 0 && cz < 2 * core;
#pragma unroll
            for (int corner = 0; corner < 8; ++corner) {
                const int dx = corner & 1, dy = (corner >> 1) & 1, dz = corner >> 2;
                const float f = (dx ? at.fx : 1.f - at.fx) * (dy ? at.fy : 1.f - at.fy) * (dz ? at.fz : 1.f - at.fz);
                if (inside) {
                    float* const v = inner + 2 * (((cz + dz) * core_side + cy + dy) * (core + 1) + at.ix + dx);
                    atomicAdd(v, f * re);
                    atomicAdd(v + 1, f * im);
                } else {
                    const int voxel = (at.iz + dz) * plane + (at.iy + dy) * row + at.ix + dx;
                    add_voxel(accumulator + voxel, f * re, f * im, 0.f);
                }
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < core_size; i += blockDim.x) {
        const int x = i % (core + 1), y = i / (core + 1) % core_side, z = i / (core + 1) / core_side;
        const float re = inner[2 * i], im = inner[2 * i + 1];
        if (re == 0.f && im == 0.f) continue;
        add_voxel(accumulator + (z - core + radius) * plane + (y - core + radius) * row + x, re, im, 0.f);
    }
}
