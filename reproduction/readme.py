"""`python -m reproduction.readme`: keeps the generated tables of README and docs current."""

from reproduction.compare.readme import main

if __name__ == "__main__":
    raise SystemExit(main())
