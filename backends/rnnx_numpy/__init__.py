"""The NumPy backend of rnnx: every cell on the CPU, with gradients, and nothing but NumPy."""
