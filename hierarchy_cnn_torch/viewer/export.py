"""Writes the viewer's page: from a run of this repository, or from anybody's confusion matrix and scores.

python -m hierarchy_cnn_torch.viewer.export --confusion M.npy --names names.txt --out view.html
python -m hierarchy_cnn_torch.viewer.export --run runs/hierarchy/fashion_mnist-cpu/seed0 --out view.html
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hierarchy_cnn_torch.flags import as_user_error, parse_numbers
from reproduction.runtime.arrays import confusion_counts, read_npy, read_npz
from reproduction.runtime.faults import first_line
from reproduction.runtime.flags import FlagTable, Parser, add_flags, run_main
from reproduction.runtime.run_folder import UserError, shown

if TYPE_CHECKING:
    from hierarchy_cnn_torch.viewer.view import View

LARGEST_RESPONSE = 1e100  # squares and sums of larger numbers overflow


FLAGS: FlagTable = {
    "--run": dict(metavar="DIR", help="a seed folder of this paper, or a run folder of another paper here"),
    "--data-dir": dict(default="", metavar="DIR", help="data sets, for the images of --run"),
    "--compare": dict(metavar="DIR|FILE", help="another variant (A1 ...) of the same folder, or a second matrix"),
    "--confusion": dict(metavar="FILE", help=".npy or .csv counts [K, K] (rows actual), or .npy [epochs, K, K]"),
    "--names": dict(metavar="FILE", help="class names, one a line"),
    "--scores": dict(metavar="FILE", help=".npz with scores [N, K] (logits or probabilities) and labels [N]"),
    "--images": dict(metavar="FILE", help=".npy uint8 [N, H, W, C], the images of --scores"),
    "--responses": dict(metavar="FILE", help=".npz, one array [K, M] or [epochs, K, M] per layer"),
    "--tree": dict(metavar="FILE", help="tree JSON; default: average linkage of the confusions (or scores)"),
    "--levels": dict(metavar="2,9,20", default="", help="groups per level of the derived tree"),
    "--thumbs": dict(choices=["embed", "folder", "none"], help="default: embed up to 25 MB, else folder"),
    "--title": dict(default=""),
    "--out": dict(metavar="FILE", required=True, help="the HTML file"),
}


def parser() -> Parser:
    """Returns the parser of the command line."""
    p = Parser("python -m hierarchy_cnn_torch.viewer.export", __doc__.splitlines()[0])
    add_flags(p.additions, FLAGS)
    return p


def _array(path: str, what: str) -> np.ndarray:
    if not path.endswith(".csv"):
        return read_npy(path, f"{what} takes an array, .npy or .csv")
    try:
        return np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{what}: {path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{what}: {path}: not a readable array ({first_line(error)})") from None


def _stack(values: np.ndarray, what: str) -> np.ndarray:
    """One table as one epoch, several as they are."""
    if values.ndim == 3 and not len(values):
        raise UserError(f"{what}: shape {values.shape} holds no epoch")
    return values if values.ndim == 3 else values[None]


def _images(path: str) -> np.ndarray:
    """The images of --images, uint8 [N, H, W, C] with C of 1, 3 or 4."""
    images = _array(path, "--images")
    channels = (1, 3, 4)
    if images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] in channels and min(images.shape[1:3]) > 0:
        return images
    first = images.ndim == 4 and images.shape[1] in channels
    hint = "; the channels come last: array.transpose(0, 2, 3, 1)" if first and images.shape[3] not in channels else ""
    raise UserError(f"--images: {images.dtype} {images.shape}, expected uint8 [N, H, W, C], C 1, 3 or 4{hint}")


def _responses(name: str, values: np.ndarray, num_classes: int) -> np.ndarray:
    """One layer of --responses, float64 [epochs, K, M]; NaN where a class has no image."""
    stack = _stack(values, "--responses")
    shaped = stack.ndim == 3 and stack.shape[1] == num_classes and stack.shape[2] > 0
    if not shaped or stack.dtype.kind not in "biuf" or (np.abs(stack.astype(np.float64)) > LARGEST_RESPONSE).any():
        raise UserError(
            f"--responses: {name} is {values.dtype} {values.shape}, expected numbers of at most {LARGEST_RESPONSE:g} "
            f"in size, [{num_classes}, channels] or [epochs, {num_classes}, channels]"
        )
    return stack.astype(np.float64)


def _check_same_images(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Refuses --compare if epochs that the page shows together count other numbers of images."""
    for at in range(max(len(ours), len(theirs))):
        a, b = (matrices[min(at, len(matrices) - 1)].sum(1) for matrices in (ours, theirs))
        if (a != b).any():
            c = int((a != b).argmax())
            raise UserError(
                f"--compare: epoch {at + 1}: {b[c]:,} images of {names[c]} instead of {a[c]:,}; "
                "expected counts of the same test images"
            )


def probabilities_of(scores: np.ndarray) -> np.ndarray:
    """Returns scores as probabilities: unchanged if rows are non-negative and sum to 1, else their softmax.

    Args:
      scores: float [N, K].
    """
    from scipy.special import softmax

    scores = np.asarray(scores, np.float64)
    if (scores >= 0).all() and np.allclose(scores.sum(1), 1, atol=1e-3):
        return scores
    return np.asarray(softmax(scores, axis=1))


def from_files(args: argparse.Namespace) -> View:
    """Returns the view of files of one's own.

    Args:
      args: parsed flags.
    Raises:
      UserError: a file is missing, unreadable, or does not fit the others.
    """
    from hierarchy_cnn_torch.data.tree_files import load_tree
    from hierarchy_cnn_torch.method import similarity
    from hierarchy_cnn_torch.method.responses import class_correlation
    from hierarchy_cnn_torch.viewer.other_runs import derived_tree
    from hierarchy_cnn_torch.viewer.view import Epoch, Layer, View, samples_of

    if not (args.confusion or args.scores):
        raise UserError("give --run, or --confusion and --names, or --scores and --names")
    if not args.names:
        raise UserError("--names is missing: a text file with one class name a line")
    try:
        text = Path(args.names).read_text(encoding="utf-8-sig")
        names = [line.strip() for line in text.splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--names: {args.names}: not readable ({error})") from None
    scores = read_npz(args.scores, hint="--scores takes an .npz file") if args.scores else None
    probabilities: Any = None  # of --scores, as are the labels
    labels: Any = None
    if scores is not None:
        if not {"scores", "labels"} <= scores.keys():
            raise UserError(f"--scores: {args.scores}: holds {sorted(scores)}, needs scores and labels")
        labels = scores["labels"]
        shape = scores["scores"].shape
        if labels.ndim != 1 or shape != (len(labels), len(names)):
            raise UserError(f"--scores: scores {shape} do not fit labels {labels.shape} and {len(names)} names")
        if labels.dtype.kind not in "iu" or (len(labels) and not 0 <= labels.min() <= labels.max() < len(names)):
            raise UserError(f"--scores: labels must be whole numbers in [0, {len(names)})")
        if scores["scores"].dtype.kind not in "biuf" or not np.isfinite(scores["scores"]).all():
            raise UserError(f"--scores: {args.scores}: scores that are no finite numbers")
        probabilities = probabilities_of(scores["scores"])
    if args.confusion:
        stack = _stack(_array(args.confusion, "--confusion"), "--confusion")
    else:
        stack = confusion_counts(labels, probabilities.argmax(1), len(names))[None]
    with as_user_error():
        matrices = [similarity.check_confusion(counts, names) for counts in stack]
    distance = similarity.profile_distance(matrices[-1])
    if scores is not None:
        distance = similarity.score_distance(scores["scores"])
        counts = confusion_counts(labels, probabilities.argmax(1), len(names))
        if (counts != matrices[-1]).any():
            raise UserError("--scores: their predictions do not give the counts of --confusion (its last epoch)")
    if args.tree:
        tree = load_tree(args.tree, names)
    else:
        tree = derived_tree(distance, names, parse_numbers("--levels", args.levels))
    label = lambda at, count: f"epoch {at + 1}" if count > 1 else "last"  # noqa: E731
    runs = [(Path(args.confusion or args.scores).stem, [(label(i, len(matrices)), c) for i, c in enumerate(matrices)])]
    if args.compare:
        other = _stack(_array(args.compare, "--compare"), "--compare")
        with as_user_error():
            pairs = [(label(i, len(other)), similarity.check_confusion(c, names)) for i, c in enumerate(other)]
        _check_same_images(matrices, [counts for _, counts in pairs], names)
        runs.append((Path(args.compare).stem, pairs))
    layers = []
    for name, values in (
        read_npz(args.responses, hint="--responses takes an .npz file") if args.responses else {}
    ).items():
        stack_r = _responses(name, values, len(names))
        epochs: list[Epoch] = [
            (label(i, len(stack_r)), r, class_correlation(r), float("nan")) for i, r in enumerate(stack_r)
        ]
        layers.append(Layer(name, epochs))
    images = _images(args.images) if args.images else None
    samples = None
    if scores is not None:
        if images is not None and len(images) != len(labels):
            raise UserError(f"--images: {images.dtype} {images.shape}, expected uint8 [{len(labels)}, H, W, C]")
        samples = samples_of(labels, probabilities, images, note="errors and five right images of each class")
    elif images is not None:
        raise UserError("--images needs --scores, which say what each image was taken for")
    return View(args.title or f"Confusions of {runs[0][0]}", names, tree, distance, runs, layers, samples)


def check_run_flags(args: argparse.Namespace) -> None:
    """Refuses flags that would not be used: --data-dir without --run, and some with it.

    Args:
      args: parsed flags.
    Raises:
      UserError: such a flag, or a --compare that has not finished.
    """
    if not args.run:
        if args.data_dir:
            raise UserError("--data-dir: needs --run, whose images it holds; --images takes an array")
        return
    has_a0 = (Path(args.run) / "A0").exists()
    unused = ["confusion", "names", "scores", "images", "responses", "tree", "levels" if has_a0 else "compare"]
    if refused := [f"--{name}" for name in unused if getattr(args, name)]:
        which = "" if has_a0 else ", which holds no A0"
        raise UserError(f"{', '.join(refused)}: not used with --run {args.run}{which}; leave out one or the other")
    if args.compare and not (Path(args.run) / args.compare / "DONE").exists():
        finished = sorted(path.parent.name for path in Path(args.run).glob("A*/DONE"))
        raise UserError(f"--compare {args.compare}: no finished variant of {args.run}, which has {', '.join(finished)}")


def main() -> None:
    """Command line."""

    def go() -> None:
        args = parser().parse_args()
        from hierarchy_cnn_torch.viewer.view import write

        check_run_flags(args)
        if args.run and (Path(args.run) / "A0").exists():
            from hierarchy_cnn_torch.viewer.from_run import view_of_run

            view = view_of_run(Path(args.run), args.compare or "A1", args.title, args.data_dir or None)
        elif args.run:
            from hierarchy_cnn_torch.viewer.other_runs import view_of_other

            sizes = parse_numbers("--levels", args.levels)
            view = view_of_other(Path(args.run), args.title, args.data_dir or None, sizes)
        else:
            view = from_files(args)
        out = Path(args.out)
        write(view, out, args.thumbs)
        print(f"{shown(out)}: {out.stat().st_size / 1e6:.1f} MB; open it in a browser")

    run_main(go)


if __name__ == "__main__":
    main()
