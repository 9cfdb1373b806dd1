"""Command line of the triplet scripts; imports no framework."""
