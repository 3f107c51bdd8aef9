"""Mixed models with their effects integrated out: likelihood, sampling, checks."""
