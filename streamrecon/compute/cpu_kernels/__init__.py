"""Numba kernels of the CPU backend: no allocation a particle, float32 throughout, the GIL released.

Cubes are half-space Fourier grids, (z, y, x) with x >= 0, origin at (radius, radius, 0), ``pad`` grid
points a Fourier pixel; a point at x < 0 is read or written at its Friedel mate.
"""
