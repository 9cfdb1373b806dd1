"""The two stages: what is trained, evaluated and written down."""
