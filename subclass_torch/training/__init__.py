"""The stages, their loop, and what they write down."""
