"""Records of runs, the papers' claims, and the comparison of the two."""
