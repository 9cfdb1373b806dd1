"""Published tables, collected records, effects and verdicts, and their output as text."""
