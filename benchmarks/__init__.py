"""Speed and memory of ours against a straightforward formulation, as ratios. Never asserted in tests."""
