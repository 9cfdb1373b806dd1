"""`python -m reproduction.take_results`: takes the records of finished runs into reproduction/results/."""

from reproduction.launch.take_results import main

if __name__ == "__main__":
    main()
