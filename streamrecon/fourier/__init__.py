"""Fourier conventions: half-plane points, polar rings, central slices, shells.

Images and volumes have their origin at box // 2; transforms are unnormalised forward (sum over
pixels), so that the central slice of a volume's transform is the transform of its projection.
"""
