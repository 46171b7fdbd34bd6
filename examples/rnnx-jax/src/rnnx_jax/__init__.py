"""The JAX backend of rnnx: `jax.Array` in and out, eagerly and within `jax.jit`, `jax.grad` and `jax.vmap`."""
