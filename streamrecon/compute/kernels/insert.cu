// Insertion of weighed images into an accumulator: the adjoint of extraction, shift and CTF.
//
// Every slice goes through the cube's centre, where atomics of all blocks would meet. So each block keeps sums of its
// own for the points within `core` of the origin, in shared memory, over all the slices it inserts, and adds them
// to the accumulator once.

// Add (re, im, weight) to a voxel of (re, im, weight, unused).
__device__ __forceinline__ void add_voxel(float4* voxel, float re, float im, float weight)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    atomicAdd(voxel, make_float4(re, im, weight, 0.f));
#else
    float* const v = reinterpret_cast<float*>(voxel);
    atomicAdd(v, re);
    atomicAdd(v + 1, im);
    atomicAdd(v + 2, weight);
#endif
}

// accumulator (2 radius + 1, 2 radius + 1, radius + 1, 4); weighed (3, n, n_points); rotation (n, K, 3, 3);
// shift (n, K, 2); weight (n, K): poses below minimum_weight are left out; gain: a factor for all. core < 0: none.
// Blocks go through the poses in strides of the grid. Shared: 3 (2 core + 1)^2 (core + 1) floats.
extern "C" __global__ void __launch_bounds__(256) insert_slices(float4* __restrict__ accumulator, int radius, float pad,
    const float* __restrict__ kx, const float* __restrict__ ky, const float* __restrict__ weighed,
    const float* __restrict__ rotation, const float* __restrict__ shift, const float* __restrict__ weight, int n,
    int n_samples, int n_points, float phase_scale, float minimum_weight, float gain, int core)
{
    SHARED(float, inner);
    const int core_side = 2 * core + 1, core_size = core >= 0 ? core_side * core_side * (core + 1) : 0;
    const int row = radius + 1, plane = row * (2 * radius + 1);
    for (int i = threadIdx.x; i < 3 * core_size; i += blockDim.x) inner[i] = 0.f;
    __syncthreads();
    const long long size = (long long)n * n_points, poses = (long long)n * n_samples;
    for (long long pose = blockIdx.x; pose < poses; pose += gridDim.x) {
        if (weight[pose] < minimum_weight) continue;
        const float w = weight[pose] * gain;
        const float* const image = weighed + (pose / n_samples) * n_points;
        float r[6];
        slice_axes(rotation + 9 * pose, pad, r);
        for (int p = threadIdx.x; p < n_points; p += blockDim.x) {
            const float x = kx[p], y = ky[p];
            const Place at = locate(r, x, y, radius);
            const float2 phase = shift_phase(x, y, shift[2 * pose], shift[2 * pose + 1], phase_scale);
            const float cross_re = image[p], cross_im = image[size + p];
            // cross holds a factor two
            const float re = 0.5f * w * (cross_re * phase.x + cross_im * phase.y);
            const float im = 0.5f * w * (cross_im * phase.x - cross_re * phase.y) * at.sign;
            const float power = w * image[2 * size + p];
            const int cy = at.iy - radius + core, cz = at.iz - radius + core;
            const bool inside = at.ix < core && cy >= 0 && cy < 2 * core && cz >= 0 && cz < 2 * core;
#pragma unroll
            for (int corner = 0; corner < 8; ++corner) {
                const int dx = corner & 1, dy = (corner >> 1) & 1, dz = corner >> 2;
                const float f = (dx ? at.fx : 1.f - at.fx) * (dy ? at.fy : 1.f - at.fy) * (dz ? at.fz : 1.f - at.fz);
                if (inside) {
                    float* const v = inner + 3 * (((cz + dz) * core_side + cy + dy) * (core + 1) + at.ix + dx);
                    atomicAdd(v, f * re);
                    atomicAdd(v + 1, f * im);
                    atomicAdd(v + 2, f * power);
                } else {
                    const int voxel = (at.iz + dz) * plane + (at.iy + dy) * row + at.ix + dx;
                    add_voxel(accumulator + voxel, f * re, f * im, f * power);
                }
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < core_size; i += blockDim.x) {
        const int x = i % (core + 1), y = i / (core + 1) % core_side, z = i / (core + 1) / core_side;
        const float re = inner[3 * i], im = inner[3 * i + 1], power = inner[3 * i + 2];
        if (power == 0.f && re == 0.f && im == 0.f) continue;
        add_voxel(accumulator + (z - core + radius) * plane + (y - core + radius) * row + x, re, im, power);
    }
}
