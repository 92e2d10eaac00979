// Between half-space cubes and the arrays of an FFT library: shell sums, the Wiener division, and back.

// Sum the weight, and count grid points, of each shell: total, count (n_shells), zero before.
// Shared: 2 * n_shells doubles.
extern "C" __global__ void shell_weights(const float4* __restrict__ accumulator, int radius, float pad, int n_shells,
    double* __restrict__ total, double* __restrict__ count)
{
    SHARED(double, sum);
    double* const points = sum + n_shells;
    for (int s = threadIdx.x; s < n_shells; s += blockDim.x) sum[s] = points[s] = 0.0;
    __syncthreads();
    const int row = radius + 1, side = 2 * radius + 1;
    const long long size = (long long)row * side * side;
    for (long long i = global_index(); i < size; i += (long long)gridDim.x * blockDim.x) {
        const int x = (int)(i % row), y = (int)(i / row % side) - radius, z = (int)(i / row / side) - radius;
        const int shell = (int)(sqrtf((float)(x * x + y * y + z * z)) / pad + 0.5f);
        if (shell >= n_shells) continue;
        atomicAdd(sum + shell, (double)accumulator[i].z);
        atomicAdd(points + shell, 1.0);
    }
    __syncthreads();
    for (int s = threadIdx.x; s < n_shells; s += blockDim.x) {
        atomicAdd(total + s, sum[s]);
        atomicAdd(count + s, points[s]);
    }
}

// Solve (weight + regulariser) V = numerator and write it as the input of an inverse rfft, origin in the middle of the
// box. The two accumulators are added. regulariser (k_max + 2) by shell; out (m, m, m / 2 + 1), written.
// On the plane x = 0 a point and its Friedel mate were written apart; they are joined here.
extern "C" __global__ void wiener_to_rfft(const float4* __restrict__ first, const float4* __restrict__ second,
    int radius, float pad, int reach, const float* __restrict__ regulariser, float scale, int m,
    float2* __restrict__ out)
{
    const int half = m / 2 + 1;
    const long long i = global_index();
    if (i >= (long long)m * m * half) return;
    const int x = (int)(i % half), jy = (int)(i / half % m), jz = (int)(i / half / m);
    const int y = jy <= m / 2 ? jy : jy - m, z = jz <= m / 2 ? jz : jz - m;
    out[i] = make_float2(0.f, 0.f);
    const float distance2 = (float)x * x + (float)y * y + (float)z * z;
    if (abs(y) > reach || abs(z) > reach || distance2 > (float)reach * (float)reach) return;
    const int row = radius + 1, side = 2 * radius + 1;
    const long long at = ((long long)(z + radius) * side + y + radius) * row + x;
    const float4 a = first[at], b = second[at];
    float re = a.x + b.x, im = a.y + b.y, w = a.z + b.z;
    if (x == 0) {
        const long long mate = ((long long)(radius - z) * side + radius - y) * row;
        const float4 c = first[mate], d = second[mate];
        re += c.x + d.x;
        im -= c.y + d.y;
        w += c.z + d.z;
    }
    const float position = sqrtf(distance2) / pad;
    const int shell = (int)position;
    const float fraction = position - (float)shell;
    const float r = regulariser[shell] + fraction * (regulariser[shell + 1] - regulariser[shell]);
    const float divisor = w * scale + r;
    if (divisor > 0.f) {
        const float factor = ((x + y + z) % 2 == 0 ? scale : -scale) / divisor;
        out[i] = make_float2(re * factor, im * factor);
    }
}

// Copy the centre of an rfft (origin in the middle of the box) into a half-space cube; zero beyond the transform.
// transform (m, m, m / 2 + 1); cube (2 radius + 1, 2 radius + 1, radius + 1), written.
extern "C" __global__ void rfft_to_cube(const float2* __restrict__ transform, int m, int radius,
    float2* __restrict__ cube)
{
    const int row = radius + 1, side = 2 * radius + 1, half = m / 2;
    const long long i = global_index();
    if (i >= (long long)side * side * row) return;
    const int x = (int)(i % row), y = (int)(i / row % side) - radius, z = (int)(i / row / side) - radius;
    float2 value = make_float2(0.f, 0.f);
    if (abs(z) < half && abs(y) < half && x < half) {
        const int jz = z >= 0 ? z : z + m, jy = y >= 0 ? y : y + m;
        value = transform[((long long)jz * m + jy) * (half + 1) + x];
        if ((x + y + z) % 2 != 0) value = make_float2(-value.x, -value.y);
    }
    cube[i] = value;
}

// Sums over shells of Re(a conj b), |a|^2 and |b|^2: transforms (m, m, m / 2 + 1); sums (3, n_shells), zero before.
// Shared: 3 * n_shells doubles.
extern "C" __global__ void shell_products(const float2* __restrict__ a, const float2* __restrict__ b, int m,
    int n_shells, double* __restrict__ sums)
{
    SHARED(double, local);
    for (int s = threadIdx.x; s < 3 * n_shells; s += blockDim.x) local[s] = 0.0;
    __syncthreads();
    const int half = m / 2 + 1;
    const long long size = (long long)m * m * half;
    for (long long i = global_index(); i < size; i += (long long)gridDim.x * blockDim.x) {
        const int x = (int)(i % half), jy = (int)(i / half % m), jz = (int)(i / half / m);
        const int y = jy < m / 2 ? jy : jy - m, z = jz < m / 2 ? jz : jz - m;
        const int shell = (int)rint(sqrt((double)(x * x + y * y + z * z)));
        if (shell >= n_shells) continue;
        const float2 u = a[i], v = b[i];
        atomicAdd(local + shell, (double)(u.x * v.x + u.y * v.y));
        atomicAdd(local + n_shells + shell, (double)(u.x * u.x + u.y * u.y));
        atomicAdd(local + 2 * n_shells + shell, (double)(v.x * v.x + v.y * v.y));
    }
    __syncthreads();
    for (int s = threadIdx.x; s < 3 * n_shells; s += blockDim.x) atomicAdd(sums + s, local[s]);
}

// Pack a cube into half-precision pairs: out = cube / *scale.
extern "C" __global__ void pack_cube(const float2* __restrict__ cube, const float* __restrict__ scale, long long size,
    unsigned* __restrict__ out)
{
    const long long i = global_index();
    if (i >= size) return;
    const float factor = 1.f / *scale;
    out[i] = pack_half2(cube[i].x * factor, cube[i].y * factor);
}
