// What every kernel shares. The dialect is what NVRTC (no host headers), nvcc and the tests' host compiler all accept:
// shared memory is dynamic only, reached through SHARED; no templates over kernels, no textures, no library headers.
// Arrays are C-contiguous. Cubes are half-space Fourier grids (z, y, x), x >= 0, origin at (radius, radius, 0), `pad`
// grid points a Fourier pixel; a point at x < 0 is read or written at its Friedel mate.

#ifndef CUDA_HOST_SHIM
extern __shared__ __align__(16) unsigned char dynamic_shared[];
#define SHARED(T, name) T* const name = reinterpret_cast<T*>(dynamic_shared)
#endif

#define FULL_WARP 0xffffffffu
#define WARP 32
#define LOWEST -3e38f

__device__ __forceinline__ long long global_index()
{
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ float warp_sum(float v)
{
    for (int offset = WARP / 2; offset > 0; offset >>= 1) v += __shfl_down_sync(FULL_WARP, v, offset);
    return v;
}

__device__ __forceinline__ double warp_sum(double v)
{
    for (int offset = WARP / 2; offset > 0; offset >>= 1) v += __shfl_down_sync(FULL_WARP, v, offset);
    return v;
}

__device__ __forceinline__ float warp_max(float v)
{
    for (int offset = WARP / 2; offset > 0; offset >>= 1) v = fmaxf(v, __shfl_down_sync(FULL_WARP, v, offset));
    return v;
}

// The sum over a block of whole warps, valid in thread 0. `scratch` holds one value a warp; the caller synchronises
// before it is used again.
template <class T> __device__ __forceinline__ T block_sum(T v, T* scratch)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    v = warp_sum(v);
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    if (warp == 0) v = warp_sum(lane < warps ? scratch[lane] : T(0));
    return v;
}

__device__ __forceinline__ float block_max(float v, float* scratch)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    v = warp_max(v);
    if (lane == 0) scratch[warp] = v;
    __syncthreads();
    if (warp == 0) v = warp_max(lane < warps ? scratch[lane] : LOWEST);
    return v;
}

// Two half-precision floats in one word: the real part low, the imaginary part high.
__device__ __forceinline__ float2 unpack_half2(unsigned word)
{
#ifdef CUDA_HOST_SHIM
    return shim::unpack_half2(word);
#else
    float re, im;
    asm("cvt.f32.f16 %0, %1;" : "=f"(re) : "h"((unsigned short)(word & 0xffffu)));
    asm("cvt.f32.f16 %0, %1;" : "=f"(im) : "h"((unsigned short)(word >> 16)));
    return make_float2(re, im);
#endif
}

__device__ __forceinline__ unsigned pack_half2(float re, float im)
{
#ifdef CUDA_HOST_SHIM
    return shim::pack_half2(re, im);
#else
    unsigned short low, high;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(low) : "f"(re));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(high) : "f"(im));
    return (unsigned)low | ((unsigned)high << 16);
#endif
}

// Where a slice point falls: the lower corner's index, the fractions, and -1 where it was folded to its Friedel mate.
struct Place {
    int ix, iy, iz;
    float fx, fy, fz, sign;
};

// r: the first two columns of the rotation times pad, (x0, x1, y0, y1, z0, z1).
__device__ __forceinline__ Place locate(const float* r, float kx, float ky, int radius)
{
    float x = r[0] * kx + r[1] * ky;
    float y = r[2] * kx + r[3] * ky;
    float z = r[4] * kx + r[5] * ky;
    Place place;
    place.sign = x >= 0.f ? 1.f : -1.f;
    x *= place.sign;
    y = y * place.sign + (float)radius;
    z = z * place.sign + (float)radius;
    place.ix = (int)x;  // all are positive: truncation is floor
    place.iy = (int)y;
    place.iz = (int)z;
    place.fx = x - (float)place.ix;
    place.fy = y - (float)place.iy;
    place.fz = z - (float)place.iz;
    return place;
}

__device__ __forceinline__ float2 read_voxel(const float2* __restrict__ cube, int index) { return __ldg(cube + index); }
__device__ __forceinline__ float2 read_voxel(const unsigned* __restrict__ cube, int index)
{
    return unpack_half2(__ldg(cube + index));
}

__device__ __forceinline__ float2 lerp(float2 a, float2 b, float t)
{
    return make_float2(fmaf(t, b.x - a.x, a.x), fmaf(t, b.y - a.y, a.y));
}

// Trilinear value of the cube; Voxel is float2, or unsigned for half-precision pairs.
template <class Voxel>
__device__ __forceinline__ float2 gather(const Voxel* __restrict__ cube, const Place& p, int radius)
{
    const int row = radius + 1, plane = row * (2 * radius + 1);
    const int i = p.iz * plane + p.iy * row + p.ix;
    const float2 a = lerp(read_voxel(cube, i), read_voxel(cube, i + row), p.fy);
    const float2 b = lerp(read_voxel(cube, i + 1), read_voxel(cube, i + row + 1), p.fy);
    const float2 c = lerp(read_voxel(cube, i + plane), read_voxel(cube, i + plane + row), p.fy);
    const float2 d = lerp(read_voxel(cube, i + plane + 1), read_voxel(cube, i + plane + row + 1), p.fy);
    const float2 value = lerp(lerp(a, c, p.fz), lerp(b, d, p.fz), p.fx);
    return make_float2(value.x, value.y * p.sign);
}

// exp(-2 pi i k.t / N), (cosine, sine); `scale` is -2 / N.
__device__ __forceinline__ float2 shift_phase(float kx, float ky, float shift_x, float shift_y, float scale)
{
    float s, c;
    sincospif(scale * (kx * shift_x + ky * shift_y), &s, &c);
    return make_float2(c, s);
}
