// Adaptive importance sampling of poses: weights, new samples around old ones, the density they come from.

#define NEGLIGIBLE 1e-4f  // a parent below this share is dropped, from draws and density alike

// Self-normalised importance weights of K samples an image; one warp an image.
// log_likelihood, density (n, K); weight (n, K), written; summary (n, 3), written: log of the mean unnormalised
// weight, effective sample size, index of the sample of highest likelihood.
extern "C" __global__ void normalise_weights(const float* __restrict__ log_likelihood, const float* __restrict__ density,
    int n, int n_samples, float beta, float* __restrict__ weight, float* __restrict__ summary)
{
    const int image = (int)(global_index() / WARP), lane = threadIdx.x % WARP;
    if (image >= n) return;
    const long long first = (long long)image * n_samples;
    float top = LOWEST, highest = LOWEST;
    int best = 0;
    for (int k = lane; k < n_samples; k += WARP) {
        const float value = log_likelihood[first + k];
        const float tempered = beta * value - logf(density[first + k]);
        weight[first + k] = tempered;
        top = fmaxf(top, tempered);
        if (value > highest) {
            highest = value;
            best = k;
        }
    }
    top = __shfl_sync(FULL_WARP, warp_max(top), 0);
    for (int offset = WARP / 2; offset > 0; offset >>= 1) {
        const float other = __shfl_down_sync(FULL_WARP, highest, offset);
        const int other_best = __shfl_down_sync(FULL_WARP, best, offset);
        if (other > highest || (other == highest && other_best < best)) {
            highest = other;
            best = other_best;
        }
    }
    float total = 0.f, square = 0.f;
    for (int k = lane; k < n_samples; k += WARP) {
        const float w = expf(weight[first + k] - top);
        weight[first + k] = w;
        total += w;
        square += w * w;
    }
    total = __shfl_sync(FULL_WARP, warp_sum(total), 0);
    square = warp_sum(square);
    for (int k = lane; k < n_samples; k += WARP) weight[first + k] /= total;
    if (lane == 0) {
        summary[3 * image] = top + logf(total / (float)n_samples);
        summary[3 * image + 1] = total * total / square;
        summary[3 * image + 2] = (float)best;
    }
}

// exp([omega]x), Rodrigues' formula: out (3, 3), written.
__device__ __forceinline__ void small_rotation(float x, float y, float z, float* out)
{
    const float angle = sqrtf(x * x + y * y + z * z);
    float s = 1.f, c = 0.5f;
    if (angle > 1e-6f) {
        s = sinf(angle) / angle;
        c = (1.f - cosf(angle)) / (angle * angle);
    }
    out[0] = 1.f - c * (y * y + z * z);
    out[1] = c * x * y - s * z;
    out[2] = c * x * z + s * y;
    out[3] = c * x * y + s * z;
    out[4] = 1.f - c * (x * x + z * z);
    out[5] = c * y * z - s * x;
    out[6] = c * x * z - s * y;
    out[7] = c * y * z + s * x;
    out[8] = 1.f - c * (x * x + y * y);
}

// The share of old sample m if a new pose lies in its box, else 0.
__device__ __forceinline__ float share_if_near(const float* __restrict__ old, const float* fresh, float dx, float dy,
    float share, float half_rotation, float half_shift)
{
    if (share == 0.f || fabsf(dx) > half_shift || fabsf(dy) > half_shift) return 0.f;
    float trace = 0.f;
    for (int i = 0; i < 9; ++i) trace += fresh[i] * old[i];
    if (trace < 1.f) return 0.f;
    // the vector of (D - D^T) / 2, D = fresh old^T, is omega to third order
    float w0 = 0.f, w1 = 0.f, w2 = 0.f;
    for (int b = 0; b < 3; ++b) {
        w0 += fresh[6 + b] * old[3 + b] - fresh[3 + b] * old[6 + b];
        w1 += fresh[b] * old[6 + b] - fresh[6 + b] * old[b];
        w2 += fresh[3 + b] * old[b] - fresh[b] * old[3 + b];
    }
    return fmaxf(fabsf(w0), fmaxf(fabsf(w1), fabsf(w2))) <= 2.f * half_rotation ? share : 0.f;
}

// Draw K poses in boxes around M resampled old ones, with the density of the whole mixture; one block an image.
// rotation (n, M, 3, 3), shift (n, M, 2), weight (n, M): the old; start (n), uniform (n, K, 5) in [0, 1);
// new_rotation (n, K, 3, 3), new_shift (n, K, 2), density (n, K), written. volume: a box's share of all poses.
// Shared: 2 M floats.
extern "C" __global__ void __launch_bounds__(64) propose_around(const float* __restrict__ rotation,
    const float* __restrict__ shift, const float* __restrict__ weight, const float* __restrict__ start,
    const float* __restrict__ uniform, int n_old, int n_new, float half_rotation, float half_shift, float volume,
    float* __restrict__ new_rotation, float* __restrict__ new_shift, float* __restrict__ density)
{
    SHARED(float, share);
    float* const passed = share + n_old;
    const long long image = blockIdx.x;
    rotation += 9 * image * n_old;
    shift += 2 * image * n_old;
    if (threadIdx.x == 0) {
        float total = 0.f;
        for (int m = 0; m < n_old; ++m) {
            const float w = weight[image * n_old + m];
            share[m] = w > NEGLIGIBLE ? w : 0.f;
            total += share[m];
        }
        float sum = 0.f;
        for (int m = 0; m < n_old; ++m) {
            share[m] /= total;
            sum += share[m];
            passed[m] = sum;
        }
    }
    __syncthreads();
    for (int k = threadIdx.x; k < n_new; k += blockDim.x) {
        const float target = ((float)k + start[image]) / (float)n_new;
        int parent = 0;
        while (parent < n_old - 1 && passed[parent] <= target) ++parent;
        while (parent > 0 && share[parent] == 0.f) --parent;  // rounding ran past the last share
        const long long i = image * n_new + k;
        const float* const u = uniform + 5 * i;
        float turn[9], fresh[9];
        small_rotation((2.f * u[0] - 1.f) * half_rotation, (2.f * u[1] - 1.f) * half_rotation,
            (2.f * u[2] - 1.f) * half_rotation, turn);
        const float* const old = rotation + 9 * parent;
        for (int a = 0; a < 3; ++a)
            for (int b = 0; b < 3; ++b)
                fresh[3 * a + b] = turn[3 * a] * old[b] + turn[3 * a + 1] * old[3 + b] + turn[3 * a + 2] * old[6 + b];
        const float x = shift[2 * parent] + (2.f * u[3] - 1.f) * half_shift;
        const float y = shift[2 * parent + 1] + (2.f * u[4] - 1.f) * half_shift;
        float q = share[parent];
        for (int m = 0; m < n_old; ++m)
            if (m != parent)
                q += share_if_near(rotation + 9 * m, fresh, x - shift[2 * m], y - shift[2 * m + 1], share[m],
                    half_rotation, half_shift);
        for (int a = 0; a < 9; ++a) new_rotation[9 * i + a] = fresh[a];
        new_shift[2 * i] = x;
        new_shift[2 * i + 1] = y;
        density[i] = q / volume;
    }
}
