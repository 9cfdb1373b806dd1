"""From csv lists to batches: which images (sampler), what becomes of them (augment), how they are fed (loader)."""
