"""The same method on YouTube-8M, the paper's video half."""
