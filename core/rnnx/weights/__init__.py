"""Layout algebra of recurrent weights, and the portable file."""
