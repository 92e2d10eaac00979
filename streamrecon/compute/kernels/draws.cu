// Draws from the cells: systematic resampling over columns, then within a column, then a pose inside the cell.

// Running sum of each image's masses, in double; one block an image. mass (n, columns); out (n, columns), written.
// Shared: one double a warp, and one more.
extern "C" __global__ void scan_masses(const float* __restrict__ mass, int columns, double* __restrict__ out)
{
    SHARED(double, scratch);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    const long long first = (long long)blockIdx.x * columns;
    if (threadIdx.x == 0) scratch[warps] = 0.0;  // carried from piece to piece
    for (int start = 0; start < columns; start += blockDim.x) {
        const int c = start + threadIdx.x;
        double v = c < columns ? (double)mass[first + c] : 0.0;
        for (int offset = 1; offset < WARP; offset <<= 1) {
            const double below = __shfl_up_sync(FULL_WARP, v, offset);
            if (lane >= offset) v += below;
        }
        if (lane == WARP - 1) scratch[warp] = v;
        __syncthreads();
        double before = scratch[warps];
        for (int w = 0; w < warp; ++w) before += scratch[w];
        if (c < columns) out[first + c] = before + v;
        __syncthreads();
        if (threadIdx.x == blockDim.x - 1) scratch[warps] = before + v;
        __syncthreads();
    }
}

struct Cell {
    int column, j, variant;
};

// The cell of a column at which the running sum of its 4 J tempered values reaches `within`; a whole warp calls it.
__device__ __forceinline__ Cell find_in_column(const float* __restrict__ planes, long long plane, long long row,
    long long index, int n_psi, float offset, float beta, float within)
{
    const int lane = threadIdx.x % WARP;
    float before = 0.f;
    for (int start = 0; start < 4 * n_psi; start += WARP) {
        const int cell = start + lane;
        float v = 0.f;
        if (cell < 4 * n_psi)
            v = expf(beta * (variant_value(read_planes(planes, plane, (cell / 4) * row + index), cell % 4) + offset));
        for (int step = 1; step < WARP; step <<= 1) {
            const float below = __shfl_up_sync(FULL_WARP, v, step);
            if (lane >= step) v += below;
        }
        const unsigned reached = __ballot_sync(FULL_WARP, cell < 4 * n_psi && before + v >= within);
        if (reached) {
            const int found = start + __ffs((int)reached) - 1;
            return {0, found / 4, found % 4};
        }
        before += __shfl_sync(FULL_WARP, v, WARP - 1);
    }
    return {0, n_psi - 1, 3};  // rounding left the target just above the sum
}

// Place a pose uniformly inside its cell: rotation (3, 3) and shift (2), written.
__device__ __forceinline__ void pose_in_cell(const float* __restrict__ children, int n_children, float angle,
    float psi_step, const float* __restrict__ centre, float shift_step, const float* __restrict__ u, float* rotation,
    float* shift)
{
    const float* const child = children + 2 * min((int)(u[0] * (float)n_children), n_children - 1);
    angle += (u[1] - 0.5f) * psi_step;
    float st, ct, sp, cp, sa, ca;
    sincosf(child[0], &st, &ct);
    sincosf(child[1], &sp, &cp);
    sincosf(angle, &sa, &ca);
    rotation[0] = cp * ct * ca - sp * sa;
    rotation[1] = -cp * ct * sa - sp * ca;
    rotation[2] = cp * st;
    rotation[3] = sp * ct * ca + cp * sa;
    rotation[4] = -sp * ct * sa + cp * ca;
    rotation[5] = sp * st;
    rotation[6] = -st * ca;
    rotation[7] = st * sa;
    rotation[8] = ct;
    shift[0] = centre[0] + (u[2] - 0.5f) * shift_step;
    shift[1] = centre[1] + (u[3] - 0.5f) * shift_step;
}

// Draw K poses an image, the last `defensive` ones uniformly, the others systematically; one warp a draw.
// cumulative (n, S * D) from scan_masses; start (n); pick, place (n, K, 4) uniform in [0, 1); children (2 D, C, 2);
// rotation (n, K, 3, 3), shift (n, K, 2), density (n, K) over the uniform one, written.
extern "C" __global__ void draw_poses(const float* __restrict__ planes, const float* __restrict__ power_term,
    const float* __restrict__ best, const float* __restrict__ mass, const double* __restrict__ cumulative,
    const double* __restrict__ summary, const float* __restrict__ start, const float* __restrict__ pick,
    const float* __restrict__ place, const float* __restrict__ children, const float* __restrict__ psi,
    const float* __restrict__ shifts, int n, int n_psi, int n_shifts, int n_directions, int n_draws, int defensive,
    int n_children, float beta, float psi_step, float shift_step, float* __restrict__ rotation,
    float* __restrict__ shift, float* __restrict__ density)
{
    const long long draw = global_index() / WARP;
    if (draw >= (long long)n * n_draws) return;
    const int image = (int)(draw / n_draws), k = (int)(draw % n_draws), columns = n_shifts * n_directions;
    const long long row = (long long)n * columns, plane = row * n_psi, first = (long long)image * columns;
    const float* const u = pick + 4 * draw;
    const double total = summary[3 * image];
    Cell cell;
    if (k < n_draws - defensive) {
        const double target = (k + (double)start[image]) * (total / (n_draws - defensive));
        int low = 0, high = columns - 1;  // the first column whose running sum passes the target, or the last
        while (low < high) {
            const int middle = (low + high) / 2;
            if (cumulative[first + middle] > target) high = middle;
            else low = middle + 1;
        }
        const float offset = -power_term[image * n_directions + low % n_directions] - best[image];
        cell = find_in_column(planes, plane, row, first + low, n_psi, offset, beta, u[0] * mass[first + low]);
        cell.column = low;
    } else {
        cell.column = min((int)(u[0] * (float)columns), columns - 1);
        cell.j = min((int)(u[1] * (float)n_psi), n_psi - 1);
        cell.variant = min((int)(u[2] * 4.f), 3);
    }
    if (threadIdx.x % WARP != 0) return;
    const int pair = cell.column % n_directions;
    const Planes v = read_planes(planes, plane, cell.j * row + first + cell.column);
    const float x = variant_value(v, cell.variant) - power_term[image * n_directions + pair] - best[image];
    const float share = (float)defensive / (float)n_draws;
    const float n_cells = 4.f * (float)n_psi * (float)columns;
    density[draw] = (1.f - share) * (expf(beta * x) / (float)total) * n_cells + share;
    const int direction = pair + (cell.variant >= 2 ? n_directions : 0);
    const float angle = cell.variant % 2 == 1 ? -psi[cell.j] : psi[cell.j];
    pose_in_cell(children + 2LL * direction * n_children, n_children, angle, psi_step,
        shifts + 2 * (cell.column / n_directions), shift_step, place + 4 * draw, rotation + 9 * draw, shift + 2 * draw);
}
