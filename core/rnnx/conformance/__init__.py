"""The suite that judges a backend: what it is run on, what is expected of it, and what is said where it fails."""
