// From an image's transform to what the likelihood needs: half-plane points, CTF, weights, ring phases.

// Copy the half-plane points out of rfft2 output, origin moved to the box centre.
// transform (n, box, box / 2 + 1); kx, ky (n_points); real, imaginary (n, n_points), written.
extern "C" __global__ void gather_half_plane(const float2* __restrict__ transform, const float* __restrict__ kx,
    const float* __restrict__ ky, int n, int box, int n_points, float* __restrict__ real, float* __restrict__ imaginary)
{
    const long long i = global_index();
    if (i >= (long long)n * n_points) return;
    const int image = (int)(i / n_points), p = (int)(i % n_points);
    const int x = (int)kx[p], y = (int)ky[p];
    const int row = y >= 0 ? y : y + box;
    const float2 value = transform[((long long)image * box + row) * (box / 2 + 1) + x];
    const float sign = (x + y) % 2 == 0 ? 1.f : -1.f;
    real[i] = sign * value.x;
    imaginary[i] = sign * value.y;
}

// Mean of |F|^2 over each shell; one block an image. Shared: 2 * n_shells words.
extern "C" __global__ void shell_power(const float2* __restrict__ transform, int box, int n_shells,
    float* __restrict__ power)
{
    SHARED(float, sum);
    int* const count = reinterpret_cast<int*>(sum + n_shells);
    for (int s = threadIdx.x; s < n_shells; s += blockDim.x) {
        sum[s] = 0.f;
        count[s] = 0;
    }
    __syncthreads();
    const int half = box / 2 + 1;
    const float2* const image = transform + (long long)blockIdx.x * box * half;
    for (int i = threadIdx.x; i < box * half; i += blockDim.x) {
        const int row = i / half, kx = i % half;
        const int ky = row <= box / 2 ? row : row - box;
        const int shell = (int)(sqrtf((float)(kx * kx + ky * ky)) + 0.5f);
        if (shell >= n_shells) continue;
        const float2 value = image[i];
        atomicAdd(sum + shell, value.x * value.x + value.y * value.y);
        atomicAdd(count + shell, 1);
    }
    __syncthreads();
    for (int s = threadIdx.x; s < n_shells; s += blockDim.x)
        power[(long long)blockIdx.x * n_shells + s] = count[s] > 0 ? sum[s] / (float)count[s] : 0.f;
}

// CTF of n particles at points given in Fourier pixels: coefficients (n, 5), step (n) in 1/angstrom, out (n, n_points).
extern "C" __global__ void ctf_at_points(const float* __restrict__ coefficients, const float* __restrict__ kx,
    const float* __restrict__ ky, const float* __restrict__ step, int n, int n_points, float* __restrict__ out)
{
    const long long i = global_index();
    if (i >= (long long)n * n_points) return;
    const int image = (int)(i / n_points), p = (int)(i % n_points);
    const float* const c = coefficients + 5 * image;
    const float step2 = step[image] * step[image];
    const float x2 = kx[p] * kx[p] * step2, y2 = ky[p] * ky[p] * step2, k2 = x2 + y2;
    out[i] = sinf(c[0] * x2 + c[1] * y2 + c[2] * kx[p] * ky[p] * step2 + c[3] * k2 * k2 + c[4]);
}

// cross = 2 C I / sigma2 and weight = C^2 / sigma2; out (3, n, n_points): cross re, cross im, weight.
extern "C" __global__ void weigh_half_plane(const float* __restrict__ real, const float* __restrict__ imaginary,
    const float* __restrict__ ctf, const int* __restrict__ shell, const float* __restrict__ inverse_noise, int n,
    int n_points, int n_shells, float* __restrict__ out)
{
    const long long i = global_index(), size = (long long)n * n_points;
    if (i >= size) return;
    const int image = (int)(i / n_points), p = (int)(i % n_points);
    const float w = inverse_noise[(long long)image * n_shells + shell[p]], c = ctf[i];
    out[i] = 2.f * c * w * real[i];
    out[size + i] = 2.f * c * w * imaginary[i];
    out[2 * size + i] = c * c * w;
}

// Bring every ring back by every shift of the search, weighed: C I exp(+2 pi i k.t / N) gain.
// rings (n, re|im, R * H); ctf (n, R * H); gain (n, R); kx, ky (R * H); shifts (S, 2); out (re|im, n, S, R * H), written.
extern "C" __global__ void shift_rings(const float* __restrict__ rings, const float* __restrict__ ctf,
    const float* __restrict__ gain, const float* __restrict__ kx, const float* __restrict__ ky,
    const float* __restrict__ shifts, int n, int n_shifts, int n_rings, int n_half, float scale, float* __restrict__ out)
{
    const int ring_points = n_rings * n_half;
    const long long i = global_index(), size = (long long)n * n_shifts * ring_points;
    if (i >= size) return;
    const int p = (int)(i % ring_points), s = (int)(i / ring_points % n_shifts);
    const int image = (int)(i / ((long long)ring_points * n_shifts));
    const float w = gain[image * n_rings + p / n_half] * ctf[(long long)image * ring_points + p];
    const float* const ring = rings + (long long)image * 2 * ring_points;
    const float re = w * ring[p], im = w * ring[ring_points + p];
    const float2 phase = shift_phase(kx[p], ky[p], shifts[2 * s], shifts[2 * s + 1], -scale);
    out[i] = re * phase.x - im * phase.y;
    out[size + i] = re * phase.y + im * phase.x;
}

// gain times the sum of C^2 over each ring's samples: out (n, R), written; one warp a ring.
extern "C" __global__ void ring_power_weight(const float* __restrict__ ctf, const float* __restrict__ gain, int n_rows,
    int n_half, float* __restrict__ out)
{
    const int row = (int)(global_index() / WARP), lane = threadIdx.x % WARP;
    if (row >= n_rows) return;
    float total = 0.f;
    for (int h = lane; h < n_half; h += WARP) {
        const float c = ctf[(long long)row * n_half + h];
        total += c * c;
    }
    total = warp_sum(total);
    if (lane == 0) out[row] = gain[row] * total;
}
