"""`python -m datasets`: lists the sets; with --verify checks those that are present."""

from datasets.cli import main

raise SystemExit(main())
