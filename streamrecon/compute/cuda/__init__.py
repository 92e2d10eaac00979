"""The CUDA backend: CuPy arrays, cuBLAS and cuFFT through it, and the CUDA C kernels of ``compute/kernels``.

Nothing here imports CuPy when it is imported: `device.open_device` does, and says what is missing.
"""
