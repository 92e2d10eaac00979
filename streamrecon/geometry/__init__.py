"""Rotations, pose quadrature and symmetry: where particles may point. No images, no volumes."""
