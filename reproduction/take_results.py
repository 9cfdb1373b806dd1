"""`python -m reproduction.take_results`: copies the records of finished runs to reproduction/results/."""

from reproduction.launch.take_results import main

if __name__ == "__main__":
    main()
