// Adding what a slice has at a point to the eight grid points around it: what insertion and the normal operator share.
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

// A block's sums. LANES: 3 with a weight, 2 without; the accumulator (2 radius + 1, 2 radius + 1, radius + 1) has four
// lanes in either case. core < 0: no sums of its own, all goes to the accumulator.
template <int LANES> struct BlockSums {
    float* inner;  // shared, LANES (2 core + 1)^2 (core + 1) floats
    float4* accumulator;
    int radius, core, core_side, core_size, row, plane;

    __device__ __forceinline__ BlockSums(float* inner_, float4* accumulator_, int radius_, int core_)
        : inner(inner_), accumulator(accumulator_), radius(radius_), core(core_), core_side(2 * core_ + 1),
          core_size(core_ >= 0 ? core_side * core_side * (core_ + 1) : 0), row(radius_ + 1),
          plane(row * (2 * radius_ + 1))
    {
    }

    // By all threads of the block, before anything is added.
    __device__ __forceinline__ void clear() const
    {
        for (int i = threadIdx.x; i < LANES * core_size; i += blockDim.x) inner[i] = 0.f;
        __syncthreads();
    }

    __device__ __forceinline__ void add(const Place& at, float re, float im, float weight) const
    {
        const int cy = at.iy - radius + core, cz = at.iz - radius + core;
        const bool inside = at.ix < core && cy >= 0 && cy < 2 * core && cz >= 0 && cz < 2 * core;
#pragma unroll
        for (int corner = 0; corner < 8; ++corner) {
            const int dx = corner & 1, dy = (corner >> 1) & 1, dz = corner >> 2;
            const float f = (dx ? at.fx : 1.f - at.fx) * (dy ? at.fy : 1.f - at.fy) * (dz ? at.fz : 1.f - at.fz);
            if (inside) {
                float* const v = inner + LANES * (((cz + dz) * core_side + cy + dy) * (core + 1) + at.ix + dx);
                atomicAdd(v, f * re);
                atomicAdd(v + 1, f * im);
                if (LANES > 2) atomicAdd(v + 2, f * weight);
            } else {
                const int voxel = (at.iz + dz) * plane + (at.iy + dy) * row + at.ix + dx;
                add_voxel(accumulator + voxel, f * re, f * im, LANES > 2 ? f * weight : 0.f);
            }
        }
    }

    // By all threads of the block, once everything is added.
    __device__ __forceinline__ void flush() const
    {
        __syncthreads();
        for (int i = threadIdx.x; i < core_size; i += blockDim.x) {
            const int x = i % (core + 1), y = i / (core + 1) % core_side, z = i / (core + 1) / core_side;
            const float re = inner[LANES * i], im = inner[LANES * i + 1];
            const float weight = LANES > 2 ? inner[LANES * i + LANES - 1] : 0.f;
            if (weight == 0.f && re == 0.f && im == 0.f) continue;
            add_voxel(accumulator + (z - core + radius) * plane + (y - core + radius) * row + x, re, im, weight);
        }
    }
};
