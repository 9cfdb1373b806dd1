"""The stages: what is trained, handed over and recorded."""
