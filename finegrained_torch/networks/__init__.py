"""The networks, and the heads that fine-tuning puts on them."""
