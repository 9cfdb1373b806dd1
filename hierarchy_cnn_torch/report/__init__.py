"""Everything that is measured on finished runs: statistics, tables, and the summary over seeds."""
