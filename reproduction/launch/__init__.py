"""Running the papers' commands: pipelines, parallel jobs, sweeps, taking results."""
