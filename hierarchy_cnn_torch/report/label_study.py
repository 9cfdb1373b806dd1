"""The label study: planted flips and a split class, found from out-of-fold predictions (C8, T4)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hierarchy_cnn_torch.data.images import Data
from hierarchy_cnn_torch.data.tree_files import leaf_names, load_tree
from hierarchy_cnn_torch.method import label_quality, trees
from reproduction.runtime.arrays import confusion_counts, read_npz
from reproduction.runtime.run_folder import UserError, read_json, shown
from reproduction.runtime.torch_runtime import generator


def study_labels(folder: Path, data: Data) -> dict[str, Any]:
    """Finds planted flips and the split class from out-of-fold predictions, and near-duplicates (C8, T4).

    Args:
      folder: holds fold0, fold1, ...
      data: images in their splits.
    Returns:
      The study; nothing as long as a fold is missing, because each image is judged once.
    Raises:
      UserError: folds of different --folds, which judge some images twice.
    """
    folds = [path.parent for path in sorted(folder.glob("fold*/DONE"))]
    number = read_json(folds[0] / "config.json", "folds")["folds"]
    if len(folds) < number:
        print(f"label study: {len(folds)} of {number} folds have finished; it is left out", flush=True)
        return {}
    parts = [read_npz(fold / "fold.npz", hint="run that fold again with --overwrite") for fold in folds]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if len(np.unique(joined["index"])) < len(joined["index"]):
        raise UserError(f"{shown(folder)}: folds overlap, they ran with different --folds; remove those of one study")
    probabilities, labels, kind = joined["probabilities"], joined["labels"], joined["kind"]
    twin = read_json(folds[0] / "config.json", "split_class")["split_class"]
    names = [*data.names, "second label"] if twin >= 0 else list(data.names)
    tree_file = folds[0] / "noise_tree.json"
    spelled = leaf_names(tree_file)
    tree = load_tree(tree_file, [spelled.get(at, name) for at, name in enumerate(names)])
    scores = label_quality.label_scores(probabilities, labels, trees.levels_of(tree))
    use = joined["true_labels"] != twin  # the split class is a question of its own
    retrieval = label_quality.retrieval(scores["s2"][use], kind[use])
    pairs = label_quality.redundant_pairs(confusion_counts(labels, probabilities.argmax(1), probabilities.shape[1]))
    if twin >= 0:
        ranks = [at for at, (i, j, _) in enumerate(pairs, 1) if (i, j) == (twin, len(data.names))]
        retrieval["redundant_rank"] = float(ranks[0]) if ranks else float(len(pairs) + 1)
    first = np.sort(torch.randperm(len(data.images), generator=generator(0, "duplicates"))[:10000].numpy())
    duplicates = label_quality.duplicates(label_quality.difference_hash(data.images[first]), data.true_labels[first])
    confidence = label_quality.retrieval(scores["s1"][use], kind[use])  # without the tree: the control
    quality: dict[str, Any] = {
        "retrieval": retrieval,
        "retrieval_s1": confidence,
        "planted": {"near": int((kind == 1).sum()), "far": int((kind == 2).sum())},
        "pairs": [[i, j, s] for i, j, s in pairs[:10]],
        "duplicates": [[int(first[a]), int(first[b]), d] for a, b, d in duplicates[:30]],
        "duplicate_pairs": len(duplicates),
    }
    for name in ("s2", "s3"):
        order = np.argsort(-scores[name], kind="stable")[:60]
        order = order[scores[name][order] > 0]  # the rest is not in doubt
        quality[f"images_{name}"] = joined["index"][order].tolist()
        quality[f"labels_{name}"] = labels[order].tolist()
        quality[f"predicted_{name}"] = probabilities[order].argmax(1).tolist()
        quality[f"planted_{name}"] = kind[order].tolist()
    metrics = {f"quality_{name}": value for name, value in retrieval.items()}
    metrics |= {f"quality_confidence_{name}": value for name, value in confidence.items()}
    return {"quality": quality, "metrics": metrics}
