"""The microscope: optics groups, the contrast transfer function, the noise model."""
