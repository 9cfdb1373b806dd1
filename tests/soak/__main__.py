"""`make soak`: `python -m tests.soak`."""

from tests.soak.soak import main

main()
