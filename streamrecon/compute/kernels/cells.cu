// The posterior over the cells of the global search: its maximum, its log-sum-exp and spread, its histogram.
//
// A cell's log-likelihood ratio is put together from four correlation planes (4, J, n * S * D): a direction at psi and
// -psi and its antipode at psi and -psi ("variants" 0 to 3) are a + b - c + d, a + b + c - d, a - b + c + d and
// a - b - c - d, each less the direction's power term.

struct Planes {
    float a, b, c, d;
};

__device__ __forceinline__ Planes read_planes(const float* __restrict__ planes, long long plane, long long index)
{
    return {planes[index], planes[plane + index], planes[2 * plane + index], planes[3 * plane + index]};
}

__device__ __forceinline__ float variant_value(const Planes& v, int variant)
{
    if (variant == 0) return v.a + v.b - v.c + v.d;
    if (variant == 1) return v.a + v.b + v.c - v.d;
    if (variant == 2) return v.a - v.b + v.c + v.d;
    return v.a - v.b - v.c - v.d;
}

// Highest log-likelihood ratio of each image; one block an image. power_term (n, D); best (n), written.
// Shared: one float a warp.
extern "C" __global__ void best_cell(const float* __restrict__ planes, const float* __restrict__ power_term, int n,
    int n_psi, int n_shifts, int n_directions, float* __restrict__ best)
{
    SHARED(float, scratch);
    const int image = blockIdx.x, columns = n_shifts * n_directions;
    const long long row = (long long)n * columns, plane = row * n_psi;
    float top = LOWEST;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        float highest = LOWEST;
        for (int j = 0; j < n_psi; ++j) {
            const Planes v = read_planes(planes, plane, j * row + (long long)image * columns + c);
            highest = fmaxf(highest, v.a + fmaxf(v.b + fabsf(v.c - v.d), fabsf(v.c + v.d) - v.b));
        }
        top = fmaxf(top, highest - power_term[image * n_directions + c % n_directions]);
    }
    top = block_max(top, scratch);
    if (threadIdx.x == 0) best[image] = top;
}

// Sum the tempered posterior over each (shift, direction pair), and measure its spread; one block an image.
// mass (n, S * D), written; summary (n, 3), written: total, effective sample size, entropy in nats.
// Shared: three doubles a warp.
extern "C" __global__ void cell_masses(const float* __restrict__ planes, const float* __restrict__ power_term,
    const float* __restrict__ best, int n, int n_psi, int n_shifts, int n_directions, float beta,
    float* __restrict__ mass, double* __restrict__ summary)
{
    SHARED(double, scratch);
    const int image = blockIdx.x, columns = n_shifts * n_directions, warps = blockDim.x / WARP;
    const long long row = (long long)n * columns, plane = row * n_psi;
    double total = 0.0, square = 0.0, moment = 0.0;
    for (int c = threadIdx.x; c < columns; c += blockDim.x) {
        const float offset = -power_term[image * n_directions + c % n_directions] - best[image];
        float sum = 0.f, squares = 0.f, moments = 0.f;
        for (int j = 0; j < n_psi; ++j) {
            const Planes v = read_planes(planes, plane, j * row + (long long)image * columns + c);
            for (int variant = 0; variant < 4; ++variant) {
                const float x = beta * (variant_value(v, variant) + offset);
                const float p = expf(x);
                sum += p;
                squares += p * p;
                moments += p * x;
            }
        }
        mass[(long long)image * columns + c] = sum;
        total += sum;
        square += squares;
        moment += moments;
    }
    total = block_sum(total, scratch);
    square = block_sum(square, scratch + warps);
    moment = block_sum(moment, scratch + 2 * warps);
    if (threadIdx.x == 0) {
        summary[3 * image] = total;
        summary[3 * image + 1] = total * total / square;
        summary[3 * image + 2] = log(total) - moment / total;
    }
}

// Count cells by how far they lie below the best; grid (n, slices of the angles), one shared histogram a block.
// histogram (n, bins), zero before. Shared: bins ints.
extern "C" __global__ void cell_histogram(const float* __restrict__ planes, const float* __restrict__ power_term,
    const float* __restrict__ best, int n, int n_psi, int n_shifts, int n_directions, float scale, int bins,
    int* __restrict__ histogram)
{
    SHARED(int, count);
    const int image = blockIdx.x, columns = n_shifts * n_directions;
    const long long row = (long long)n * columns, plane = row * n_psi;
    for (int b = threadIdx.x; b < bins; b += blockDim.x) count[b] = 0;
    __syncthreads();
    for (int j = blockIdx.y; j < n_psi; j += gridDim.y) {
        for (int c = threadIdx.x; c < columns; c += blockDim.x) {
            const float below = best[image] + power_term[image * n_directions + c % n_directions];
            const Planes v = read_planes(planes, plane, j * row + (long long)image * columns + c);
            for (int variant = 0; variant < 4; ++variant) {
                const float x = fmaxf(below - variant_value(v, variant), 0.f);
                atomicAdd(count + min((int)fminf(scale * sqrtf(x), (float)bins), bins - 1), 1);
            }
        }
    }
    __syncthreads();
    for (int b = threadIdx.x; b < bins; b += blockDim.x)
        if (count[b] != 0) atomicAdd(histogram + (long long)image * bins + b, count[b]);
}
