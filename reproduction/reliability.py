"""`python -m reproduction.reliability`: writes docs/reliability.md; its code is next to the tests that measure."""

import runpy

if __name__ == "__main__":
    runpy.run_module("tests.soak.reliability", run_name="__main__", alter_sys=True)  # pydantic looks names up there
