"""What the two stages train and hand over."""
