"""numba stores what it compiles for UMAP; without a place for it, in a temporary folder, also of started processes."""

import os
import subprocess
import sys

import pytest

from finegrained_torch.method.cluster_one_class import import_umap

from .conftest import ROOT

# Nothing but NUMBA_CACHE_DIR can be written to: what a read-only environment without a HOME is to numba
READ_ONLY = """
import os, sys, tempfile
real = tempfile.TemporaryFile
def refuse(*args, dir=None, **more):
    if dir is not None and not str(dir).startswith(os.environ.get("NUMBA_CACHE_DIR", "\\0")):
        raise PermissionError(30, "Read-only file system", str(dir))
    return real(*args, dir=dir, **more)
tempfile.TemporaryFile = refuse
sys.path[:0] = [{root!r}, {folder!r}]
if __name__ == "__main__":
"""
IN_ONE = """
    {first}
    from finegrained_torch.method.cluster_one_class import find_numba_cache
    find_numba_cache()
    import compiled
    print(compiled.twice(21), os.environ["NUMBA_CACHE_DIR"])
"""
IN_A_POOL = """
    from finegrained_torch.training.cluster_jobs import open_pool
    with open_pool([20], 2, 1) as pool:
        print(42, pool.submit(os.getenv, "NUMBA_CACHE_DIR").result())
"""


@pytest.mark.parametrize("body", [IN_ONE.format(first="pass"), IN_ONE.format(first="import numba"), IN_A_POOL])
def test_a_temporary_folder(body, tmp_path):
    (tmp_path / "compiled.py").write_text("import numba\n@numba.njit(cache=True)\ndef twice(x):\n    return 2 * x\n")
    script = tmp_path / "script.py"
    script.write_text(READ_ONLY.format(root=str(ROOT), folder=str(tmp_path)) + body)
    env = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    env |= {"HOME": "/proc/nowhere", "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    answer, folder = done.stdout.split()
    assert answer == "42" and folder.startswith(f"{tmp_path}/numba-")
    assert not os.path.exists(folder)  # removed at the end


def test_the_script_fails_without_it(tmp_path):
    """The guard of the test above: numba does refuse there."""
    (tmp_path / "compiled.py").write_text("import numba\n@numba.njit(cache=True)\ndef twice(x):\n    return 2 * x\n")
    script = tmp_path / "script.py"
    script.write_text(READ_ONLY.format(root=str(ROOT), folder=str(tmp_path)) + "    import compiled\n")
    env = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={**env, "HOME": "/proc/nowhere"}
    )
    assert "no locator available" in done.stderr


def test_umaps_slow_loops_are_stored():
    """Those with one compilation each: the layout's is compiled twice, and numba would take one for the other."""
    umap = import_umap()
    stored = {name for module in (umap.umap_, umap.utils) for name, value in vars(module).items() if is_stored(value)}
    assert {"fast_knn_indices", "smooth_knn_dist", "compute_membership_strengths", "submatrix"} <= stored
    twice = [value for name, value in vars(umap.layouts).items() if name.startswith("_nb_optimize_layout")]
    assert twice and not any(map(is_stored, twice))


def is_stored(function) -> bool:
    """Whether numba stores this function's compilation."""
    return getattr(getattr(function, "stats", None), "cache_path", None) is not None
