"""Mistakes to plant into the kernels: each a text of theirs, and what stands in its place."""

BEYOND_THE_CUBE = ("if (i >= (long long)side * side * row) return;", "if (i > (long long)side * side * row) return;")
CENTRE_OFF_BY_ONE = ("z = z * place.sign + (float)radius;", "z = z * place.sign + (float)(radius - 1);")
EDGE_LEFT_OUT = ("abs(y) < half && x < half)", "abs(y) < half && x < half - 1)")
_TAIL = "    for (int s = threadIdx.x; s < n_shells; s += blockDim.x)\n        power["
MISSING_BARRIER = ("    __syncthreads();\n" + _TAIL, _TAIL)
_REDUCTION = "    if (lane == 0) scratch[warp] = v;\n    __syncthreads();\n    if (warp == 0) v = warp_max"
REDUCTION_WITHOUT_BARRIER = (_REDUCTION, _REDUCTION.replace("    __syncthreads();\n", ""))
PLAIN_ADD = ("atomicAdd(v + 2, f * weight);", "v[2] += f * weight;")
OUTPUT_BY_ALL = ("if (lane == 0) out[row] = gain[row] * total;", "out[row] = gain[row] * total;")
SYNTAX_OF_THE_HOST = ("const float factor = 1.f / *scale;", "const float factor = 1.f / std::abs(*scale);")
