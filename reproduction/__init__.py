"""What a run writes down, what the papers claim, and the comparison of the two."""
