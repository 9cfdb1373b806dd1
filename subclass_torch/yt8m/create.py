"""Subclass TFRecords for YouTube-8M, which the authors announced and never released. Deviation: SDN-Y08.

Per neglected class: mix every video with a random one of the whole training set (average of the 1152 raw features,
labels of the first), split originals and mixed ones by k-means (k = 2) on normalized features, and write all training
records again with subclass labels, the mixed ones appended. A video positive for several neglected classes gets one
subclass of each and one mixed copy. Memory: the position of every record (16 bytes) and at most `--kmeans-videos`
videos per neglected class; larger classes fit their clusters on a seeded sample and assign the rest by nearest centre.
"""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.identity import fingerprint
from reproduction.runtime.arrays import write_npz
from reproduction.runtime.run_folder import UserError, read_json, shown, write_bytes, write_json
from reproduction.runtime.torch_runtime import derive
from subclass_torch.yt8m import tfrecord
from subclass_torch.yt8m.data import RGB, anchored, decode
from subclass_torch.yt8m.flags import Config


@dataclass(frozen=True)
class Index:
    """Where each training record is: file int32 [N], byte offset int64 [N]; and the videos of each neglected class."""

    paths: list[Path]
    file: np.ndarray
    offset: np.ndarray
    members: dict[int, np.ndarray]

    def read(self, video: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """(raw features float32 [1152], labels) of one video."""
        path = self.paths[self.file[video]]
        _, payload = next(tfrecord.records(path, start=int(self.offset[video])))
        return decode(payload, path, video, classes)


def build_index(paths: Sequence[Path], neglected: Sequence[int], classes: int) -> Index:
    """One pass over all files: positions of the records, and which videos are positive for a neglected class."""
    files, offsets = array("i"), array("q")  # a list would take 5 times the memory
    members: dict[int, list[int]] = {label: [] for label in neglected}
    for number, path in enumerate(paths):
        for record, (offset, payload) in enumerate(tfrecord.records(path)):
            _, labels = decode(payload, path, record, classes)
            for label in set(labels.tolist()) & members.keys():
                members[label].append(len(files))
            files.append(number)
            offsets.append(offset)
    videos_of = {label: np.array(videos, np.int64) for label, videos in members.items()}
    return Index(list(paths), np.array(files), np.array(offsets), videos_of)


def unit(features: np.ndarray) -> np.ndarray:
    """rgb and audio each to length 1: float32 [n, 1152]; the NumPy twin of `model.unit_vectors`."""
    parts = (features[:, :RGB], features[:, RGB:])
    return np.concatenate([p / np.maximum(np.linalg.norm(p, axis=1, keepdims=True), 1e-12) for p in parts], 1)


def partner_of(video: int, count: int, seed: int) -> int:
    """The video that is mixed in: uniform over all, a function of (seed, video)."""
    return int(np.random.default_rng(derive(seed, "yt8m", "partner", video)).integers(count))


def centres_of(index: Index, label: int, classes: int, seed: int, most: int) -> np.ndarray:
    """Two k-means centres, float32 [2, 1152], of a class's original and mixed videos.

    Raises:
      UserError: no training video has the label.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    videos = index.members[label]
    if not len(videos):
        raise UserError(f"class {label}: no training video has this label")
    if len(videos) > most // 2:
        rng = np.random.default_rng(derive(seed, "yt8m", "sample", label))
        videos = np.sort(rng.choice(videos, most // 2, replace=False))
    rows = []
    for video in videos:
        features = index.read(int(video), classes)[0]
        mate = index.read(partner_of(int(video), len(index.file), seed), classes)[0]
        rows += [features, (features + mate) / 2]
    with threadpool_limits(limits=2):
        return KMeans(2, n_init=10, random_state=0).fit(unit(np.stack(rows))).cluster_centers_.astype(np.float32)


def relabel(
    labels: np.ndarray, features: np.ndarray, centres: dict[int, np.ndarray], names: dict[int, int]
) -> np.ndarray:
    """Labels with each neglected class replaced by the subclass of the nearer centre."""
    vector = unit(features[None])
    out = []
    for label in labels.tolist():
        if label in centres and np.square(vector - centres[label]).sum(1).argmin() == 1:
            label = names[label]
        out.append(label)
    return np.array(out, np.int64)


def _written(
    index: Index, classes: int, centres: dict[int, np.ndarray], names: dict[int, int], seed: int
) -> Iterator[bytes]:
    chosen, video = set(centres), 0
    for path in index.paths:
        for record, (_, payload) in enumerate(tfrecord.records(path)):
            features, labels = decode(payload, path, record, classes)
            hit = chosen & set(labels.tolist())
            example = tfrecord.parse_example(payload)
            example["labels"] = relabel(labels, features, centres, names) if hit else labels
            yield tfrecord.frame(tfrecord.build_example(example))
            if hit:  # DEVIATION SDN-Y08: averaged features, the labels of the first video
                mate = index.read(partner_of(video, len(index.file), seed), classes)[0]
                mixed = (features + mate) / 2
                example["labels"] = relabel(labels, mixed, centres, names)
                example["mean_rgb"], example["mean_audio"] = mixed[:RGB], mixed[RGB:]
                yield tfrecord.frame(tfrecord.build_example(example))
            video += 1


def map_of(config: Config) -> Path:
    """The file of the subclass map; next to it, with the ending .json, the stamp of a finished `create`."""
    return anchored(config.subclass_labelling_data_save_fname)


def stamp_of(paths: Sequence[Path], neglected: Sequence[int], config: Config) -> dict[str, Any]:
    """What `create` depends on and which files it has written, by names, sizes and times."""
    pattern = anchored(config.train_data_pattern_glob)
    return {
        "neglected": list(neglected),
        **{name: getattr(config, name) for name in ("num_classes", "seed", "kmeans_videos", "records_per_shard")},
        "read": fingerprint(paths),
        "written": fingerprint([*sorted(pattern.parent.glob(pattern.name)), map_of(config)]),
    }


def is_finished(paths: Sequence[Path], neglected: Sequence[int], config: Config) -> bool:
    """Whether `create` with these arguments has finished, and its files and those it read have not changed since."""
    try:
        stamp = read_json(map_of(config).with_suffix(".json"))
    except UserError:  # missing or damaged
        return False
    return bool(stamp == stamp_of(paths, neglected, config))


def create(paths: Sequence[Path], neglected: Sequence[int], config: Config) -> int:
    """Writes the subclass training files, then their map and the stamp: after a kill there is no map.

    Args:
      paths: training shards with class labels.
      neglected: classes in descending theta.
      config: num_classes, seed, kmeans_videos, records_per_shard, and the two output flags.
    Returns:
      Number of records written.
    """
    classes, seed = config.num_classes, config.seed
    pattern, map_path = anchored(config.train_data_pattern_glob), map_of(config)
    if pattern.name.count("*") != 1 or re.search(r"[?[]", pattern.name) or "*" in str(pattern.parent):
        raise UserError(f"--train_data_pattern_glob {pattern}: needs one * in its file name, for the shard numbers")
    if pattern.parent.resolve() in {path.parent.resolve() for path in paths}:
        raise UserError(f"--train_data_pattern_glob {pattern}: would write next to the files it is made from")
    shard_name = re.escape(pattern.name).replace(r"\*", r"\d{4,}")
    old_shards = sorted(pattern.parent.glob(pattern.name))
    if others := [path for path in old_shards if not re.fullmatch(shard_name, path.name)]:
        raise UserError(
            f"--train_data_pattern_glob {pattern}: matches {others[0].name}, which is no shard of --stage create and "
            "would be trained on; choose a folder for these files alone"
        )
    if pattern.parent.resolve() == map_path.parent.resolve() and map_path.match(pattern.name):
        raise UserError(f"--train_data_pattern_glob {pattern}: matches the subclass map {map_path.name}; add an ending")
    for folder in (pattern.parent, map_path.parent):
        folder.mkdir(parents=True, exist_ok=True)
    index = build_index(paths, neglected, classes)
    centres = {label: centres_of(index, label, classes, seed, config.kmeans_videos) for label in neglected}
    names = {label: classes + rank for rank, label in enumerate(neglected)}
    map_path.unlink(missing_ok=True)  # first: without it some of the files are not taken for all
    for old in old_shards:
        old.unlink()
    records = _written(index, classes, centres, names, seed)
    shard = total = 0
    while block := list(itertools.islice(records, config.records_per_shard)):
        write_bytes(pattern.with_name(pattern.name.replace("*", f"{shard:04d}")), b"".join(block))
        shard, total = shard + 1, total + len(block)
    write_map(map_path, neglected, classes)
    write_json(map_path.with_suffix(".json"), stamp_of(paths, neglected, config))
    return total


def write_map(path: Path, neglected: Sequence[int], classes: int) -> None:
    """The npz of the subclass map: subclass2class int64 [S], no pickle. Deviation: SDN-Y09."""
    # DEVIATION SDN-Y09: an int array, not a pickled dict
    write_npz(path, {"subclass2class": np.array([*range(classes), *neglected], np.int64)}, compress=False)


def read_map(path: Path, classes: int, outputs: int, trust_pickle: bool = False) -> np.ndarray:
    """subclass2class int64 [S]; without added classes no file is needed.

    Raises:
      UserError: missing, damaged, of another size, or pickled and `trust_pickle` not set.
    """
    if outputs == classes:
        return np.arange(classes)
    try:
        with np.load(path, allow_pickle=trust_pickle) as content:
            if "subclass2class" in content:
                mapping = np.asarray(content["subclass2class"]).astype(np.int64)
            else:  # the authors': class -> its one new label
                pairs = content["class2subclassDict"].item()
                mapping = np.arange(outputs)
                for label, subclass in pairs.items():
                    mapping[int(np.ravel(subclass)[-1])] = int(label)
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: no subclass map; make the files with: --stage create") from None
    except Exception as error:
        hint = "; --trust-pickle reads the authors' form" if "pickle" in str(error).lower() else ""
        raise UserError(f"{shown(path)}: not a subclass map ({str(error)[:100]}){hint}") from None
    if mapping.shape != (outputs,) or mapping.min() < 0 or mapping.max() >= classes:
        raise UserError(f"{shown(path)}: maps {mapping.size} subclasses, --num_subclasses is {outputs}")
    return mapping
