"""Point estimates: alternating least squares and gradient methods."""
