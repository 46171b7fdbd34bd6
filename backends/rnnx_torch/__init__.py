"""The PyTorch backend of rnnx: tensors in, tensors out, on torch's own kernels and through its autograd."""
