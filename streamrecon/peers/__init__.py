"""The batch methods that the streaming one is held against, on the same kernels: EM, and projection matching."""
