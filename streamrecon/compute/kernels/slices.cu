// Central slices at given poses: extract, score against images, measure residuals.

#define POSES_PER_BLOCK 16  // they lie close together: what one gathers, the next finds in the first-level cache

// The first two columns of a rotation (3, 3), times pad.
__device__ __forceinline__ void slice_axes(const float* __restrict__ rotation, float pad, float* r)
{
    for (int a = 0; a < 3; ++a) {
        r[2 * a] = pad * rotation[3 * a];
        r[2 * a + 1] = pad * rotation[3 * a + 1];
    }
}

// Slices at points of any grid (half-plane or polar): rotation (n, 3, 3); out_re, out_im (n, n_points), written.
extern "C" __global__ void extract_slices(const float2* __restrict__ cube, int radius, float pad,
    const float* __restrict__ kx, const float* __restrict__ ky, const float* __restrict__ rotation, int n,
    int n_points, float* __restrict__ out_re, float* __restrict__ out_im)
{
    const long long i = global_index();
    if (i >= (long long)n * n_points) return;
    const int p = (int)(i % n_points);
    float r[6];
    slice_axes(rotation + 9 * (i / n_points), pad, r);
    const float2 value = gather(cube, locate(r, kx[p], ky[p], radius), radius);
    out_re[i] = value.x;
    out_im[i] = value.y;
}

// A block scores a few poses of one image, so that its weighed coefficients are read once for them:
// slice, shift, multiply, and a reduction by warps.
template <class Voxel>
__device__ __forceinline__ void score_block(const Voxel* __restrict__ cube, float cube_scale, int radius, float pad,
    const float* __restrict__ kx, const float* __restrict__ ky, const float* __restrict__ weighed,
    const float* __restrict__ rotation, const float* __restrict__ shift, int n, int n_samples, int n_points,
    float phase_scale, float* __restrict__ out)
{
    SHARED(float, axes);                                     // (POSES_PER_BLOCK, 8): six axes, two shifts
    float* const scratch = axes + POSES_PER_BLOCK * 8;       // (POSES_PER_BLOCK, warps)
    const int groups = (n_samples + POSES_PER_BLOCK - 1) / POSES_PER_BLOCK, warps = blockDim.x / WARP;
    const int image = blockIdx.x / groups, first = (blockIdx.x % groups) * POSES_PER_BLOCK;
    const int poses = min(POSES_PER_BLOCK, n_samples - first);
    const long long pose = (long long)image * n_samples + first;
    if (threadIdx.x < poses) {
        slice_axes(rotation + 9 * (pose + threadIdx.x), pad, axes + 8 * threadIdx.x);
        axes[8 * threadIdx.x + 6] = shift[2 * (pose + threadIdx.x)];
        axes[8 * threadIdx.x + 7] = shift[2 * (pose + threadIdx.x) + 1];
    }
    __syncthreads();
    const long long size = (long long)n * n_points;
    const float* const image_weighed = weighed + (long long)image * n_points;
    float total[POSES_PER_BLOCK] = {};
    for (int p = threadIdx.x; p < n_points; p += blockDim.x) {
        const float x = kx[p], y = ky[p];
        const float cross_re = image_weighed[p] * cube_scale, cross_im = image_weighed[size + p] * cube_scale;
        const float weight = image_weighed[2 * size + p] * cube_scale * cube_scale;
#pragma unroll
        for (int q = 0; q < POSES_PER_BLOCK; ++q) {
            if (q >= poses) break;
            const float* const r = axes + 8 * q;
            const float2 v = gather(cube, locate(r, x, y, radius), radius);
            const float2 phase = shift_phase(x, y, r[6], r[7], phase_scale);
            total[q] += cross_re * (v.x * phase.x - v.y * phase.y) + cross_im * (v.x * phase.y + v.y * phase.x);
            total[q] -= weight * (v.x * v.x + v.y * v.y);
        }
    }
#pragma unroll
    for (int q = 0; q < POSES_PER_BLOCK; ++q) {
        const float sum = warp_sum(total[q]);
        if (threadIdx.x % WARP == 0) scratch[q * warps + threadIdx.x / WARP] = sum;
    }
    __syncthreads();
    if (threadIdx.x < poses) {
        float sum = 0.f;
        for (int w = 0; w < warps; ++w) sum += scratch[threadIdx.x * warps + w];
        out[pose + threadIdx.x] = sum;
    }
}

// Log-likelihood ratio of each image at each of its own poses. weighed (3, n, n_points) from weigh_half_plane;
// rotation (n, K, 3, 3); shift (n, K, 2) pixels; out (n, K), written. Shared: 4 * (8 + warps) floats.
extern "C" __global__ void __launch_bounds__(128) score_poses(const float2* __restrict__ cube, int radius, float pad,
    const float* __restrict__ kx, const float* __restrict__ ky, const float* __restrict__ weighed,
    const float* __restrict__ rotation, const float* __restrict__ shift, int n, int n_samples, int n_points,
    float phase_scale, float* __restrict__ out)
{
    score_block(cube, 1.f, radius, pad, kx, ky, weighed, rotation, shift, n, n_samples, n_points, phase_scale, out);
}

// The same from a cube of half-precision pairs, whose values are to be multiplied by *cube_scale.
extern "C" __global__ void __launch_bounds__(128) score_poses_half(const unsigned* __restrict__ cube,
    const float* __restrict__ cube_scale, int radius, float pad, const float* __restrict__ kx,
    const float* __restrict__ ky, const float* __restrict__ weighed, const float* __restrict__ rotation,
    const float* __restrict__ shift, int n, int n_samples, int n_points, float phase_scale, float* __restrict__ out)
{
    score_block(
        cube, *cube_scale, radius, pad, kx, ky, weighed, rotation, shift, n, n_samples, n_points, phase_scale, out);
}

// Mean of |I - C S P|^2 over each shell at one pose an image; one block an image. out (n, n_shells), written.
// Shared: 2 * n_shells words.
extern "C" __global__ void residual_power(const float2* __restrict__ cube, int radius, float pad,
    const float* __restrict__ kx, const float* __restrict__ ky, const int* __restrict__ shell,
    const float* __restrict__ real, const float* __restrict__ imaginary, const float* __restrict__ ctf,
    const float* __restrict__ rotation, const float* __restrict__ shift, int n_points, int n_shells,
    float phase_scale, float* __restrict__ out)
{
    SHARED(float, sum);
    int* const count = reinterpret_cast<int*>(sum + n_shells);
    for (int s = threadIdx.x; s < n_shells; s += blockDim.x) {
        sum[s] = 0.f;
        count[s] = 0;
    }
    __syncthreads();
    const int image = blockIdx.x;
    float r[6];
    slice_axes(rotation + 9LL * image, pad, r);
    for (int p = threadIdx.x; p < n_points; p += blockDim.x) {
        const long long i = (long long)image * n_points + p;
        const float2 v = gather(cube, locate(r, kx[p], ky[p], radius), radius);
        const float2 phase = shift_phase(kx[p], ky[p], shift[2 * image], shift[2 * image + 1], phase_scale);
        const float re = real[i] - ctf[i] * (v.x * phase.x - v.y * phase.y);
        const float im = imaginary[i] - ctf[i] * (v.x * phase.y + v.y * phase.x);
        atomicAdd(sum + shell[p], re * re + im * im);
        atomicAdd(count + shell[p], 1);
    }
    __syncthreads();
    for (int s = threadIdx.x; s < n_shells; s += blockDim.x)
        out[(long long)image * n_shells + s] = count[s] > 0 ? sum[s] / (float)count[s] : 0.f;
}
