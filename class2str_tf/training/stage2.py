"""Stage 2: LH classifier, Class2Str and Str2Class, trained together: with the CNN of stage 1, or on its features.

Source: authors' train_rnn_classifier_cifar.py and its copies; the ICPR poster. The maths is in method/model.py.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import datasets
from class2str_tf.data.batches import Batches, has_fixed_order, slices
from class2str_tf.data.images import load
from class2str_tf.flags import Stage2Config, of_run
from class2str_tf.method import codes, fixed_codes, model
from class2str_tf.networks import build as networks
from class2str_tf.training import evaluate, frozen_features, loop, record
from class2str_tf.training.frozen_features import Features
from class2str_tf.training.reduced_fc import train_reduced
from class2str_tf.training.timing import forward_times
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.outcomes import outcomes_of
from reproduction.runtime.run_folder import UserError, open_run, shown
from reproduction.runtime.tf import tf, tf1

COLLAPSE_RATIO = 0.003  # w_l2 / w_i at B = 200 from which Class2Str collapses (docs/papers/class2str.md)
INITIALISATIONS = 1_000  # graph seed = seed * this + attempt


@dataclass(frozen=True)
class Graph(loop.Graph):
    """Tensors of stage 2.

    Attributes:
      x: features or images to be classified.
      bit_probabilities: p, float32 [B, L, 2].
      inverse_of: int64 [B], argmax of Str2Class(p).
      q: float32 [C, L, 2], Class2Str of every class.
      inverse_of_q: int64 [C], argmax of Str2Class(q).
    """

    x: tf.Tensor
    bit_probabilities: tf.Tensor
    inverse_of: tf.Tensor
    q: tf.Tensor
    inverse_of_q: tf.Tensor


def build(
    config: Stage2Config,
    x: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    total: int,
    fixed: np.ndarray | None = None,
) -> Graph:
    """Training and evaluation towers in the current graph.

    Args:
      config: resolved flags.
      x: training input: float32 features [N, F] of the frozen CNN, or uint8 images [N, H, W, C].
      labels: int64 [N].
      num_classes: C.
      total: steps of one attempt, for the learning rate.
      fixed: strings uint8 [C, L] in place of what Class2Str would learn, or None.
    """
    num_bits, hidden = config.n_sequence, config.hidden
    step = tf1.train.get_or_create_global_step()
    batches = Batches(x, labels, config.B, config.seed, has_fixed_order(config), config.augment)
    finetune = config.finetune == "all"

    def to_features(batch: tf.Tensor, training: bool) -> tf.Tensor:
        if batch.dtype == tf.float32:
            return batch
        outputs = networks.cnn(batch, config, training, dropout=finetune)
        return outputs if finetune else tf.stop_gradient(outputs)  # DEVIATION C2S-D02: the authors always stop it

    training = config.finetune != "none"  # DEVIATION C2S-D31: the MNIST script does so without --finetune bn
    bit_logits = model.lh_classifier(to_features(batches.x, training), num_bits, config.lstm_units)

    def to_string(one_hot: tf.Tensor) -> tf.Tensor:
        if fixed is None:
            return model.class2str(one_hot, num_bits, hidden)
        return tf.tensordot(one_hot, tf.constant(fixed_codes.logits_of(fixed)), 1)

    q_logits = to_string(tf.one_hot(batches.labels, num_classes))
    inverse_logits = model.str2class(tf.nn.softmax(q_logits), num_classes, hidden)
    weights = (config.w_c, config.w_i, config.w_l2)
    terms = model.loss_terms(
        bit_logits, q_logits, inverse_logits, batches.labels, weights, config.mu, config.label_grad
    )
    loss = terms.loss
    if config.weight_decay is not None:
        loss += config.weight_decay * networks.weight_penalty("lh", *["cnn"] * finetune)
    elif finetune:
        loss += networks.WEIGHT_DECAY * networks.weight_penalty("cnn")
    matches = tf.reduce_all(tf.equal(tf.argmax(bit_logits, 2), tf.argmax(q_logits, 2)), axis=1)
    inverse_right = tf.equal(tf.argmax(inverse_logits, 1), batches.labels)
    scalars = {
        **terms._asdict(),
        "loss": loss,
        "inverse_acc": tf.reduce_mean(tf.cast(inverse_right, tf.float32)),
        "rnn_acc": tf.reduce_mean(tf.cast(matches, tf.float32)),
    }
    drop = tf.cast(step % total, tf.float32) >= config.lr_drop_at * total  # the step counts on over attempts
    rate = loop.learning_rate(config, step, total)
    rate = tf.where(drop, 0.1 * rate, rate)
    with tf.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
        train = tf1.train.AdamOptimizer(rate).minimize(loss, global_step=step)

    placeholder = tf1.placeholder(batches.x.dtype, [None, *x.shape[1:]], name="x")
    p = tf.nn.softmax(model.lh_classifier(to_features(placeholder, False), num_bits, config.lstm_units))
    q = tf.nn.softmax(to_string(tf.eye(num_classes)))
    return Graph(
        batches,
        loss,
        scalars,
        train,
        placeholder,
        p,
        tf.argmax(model.str2class(p, num_classes, hidden), 1),
        q,
        tf.argmax(model.str2class(q, num_classes, hidden), 1),
    )


def run_stage2(config: Stage2Config) -> None:
    """Runs a stage-2 script: features, training (or going on), evaluation, record."""
    # DEVIATION C2S-D32: float32, not compiled, unless a flag asks for speed
    session_config = tf_runtime.start(config.seed, config.device, config.xla, config.amp)
    cnn_dir = Path(config.cnn_dir)
    prefix = frozen_features.newest_checkpoint(config)
    if config.eval:
        evaluate_checkpoint(config, config.eval, prefix, session_config)
        return
    with open_run(config.folder, of_run(config), config.overwrite) as run:
        seen = run_data.look_at(run.config)
        data = load(config)

        def digests() -> Mapping[str, str]:
            run_data.check_data(cnn_dir, data.digests, "run stage 1 with --overwrite, or choose --cnn-dir")
            return data.digests

        if run_data.is_finished(run, seen, digests):
            return
        warn_of_collapse(config)
        inputs = frozen_features.compute(config, data, prefix, run.folder, session_config)
        total = loop.total_steps(config, len(data.train_labels))
        outputs, history = train_until_unique(config, data, inputs, prefix, run.folder, total, session_config)
        table = codes.bits_of(outputs["q"])
        values, outcomes = evaluate.accuracies(outputs, inputs.fc_logits, data.test_labels)
        values |= evaluate.sizes_of(config, data, table)
        if not config.no_reduced_fc:
            reduced, right = train_reduced(config, data, inputs, int(values["lh_weights"]), total, session_config)
            values, outcomes["reduced_fc_accuracy"] = values | reduced, outcomes_of(right, data.test_labels)
        structure = evaluate.structure(table, inputs, data, config.seed)
        for name in ("spearman_features", "spearman_confusion"):
            if structure[name]["rho"] is not None:
                values |= {name: structure[name]["rho"], f"{name}_p": structure[name]["p"]}
        times = forward_times(config, data, table, session_config)
        values["time_change"] = times[str(config.B)]["change"]
        precision = tf_runtime.precision_of(session_config)
        record.finish_stage2(run, config, data, outputs["q"], history, values, outcomes, structure, times, precision)


def warn_of_collapse(config: Stage2Config) -> None:
    """Warns before training that the weights reward confident bits more than distinct ones (C2S-D23)."""
    ratio = config.w_l2 * config.B / 200 / max(config.w_i, 1e-12)
    if ratio >= COLLAPSE_RATIO and config.codes == "learned":
        print(
            f"warning: --w_l2 {config.w_l2:g} against --w_i {config.w_i:g} usually puts several classes on one "
            "string, and string-match accuracy then means nothing; the authors ran 4 / 100 / 0.1 (w_c / w_i / w_l2)",
            file=sys.stderr,
        )


def train_until_unique(
    config: Stage2Config,
    data: datasets.Dataset,
    inputs: Features,
    prefix: Path,
    folder: Path,
    total: int,
    session_config: Any,
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Trains; if classes share a string, trains again from the next initialisation, at most --retry-collisions times.

    With fewer strings than classes one attempt is enough. The global step continues over the attempts, so the newest
    checkpoint also identifies the attempt.

    Args:
      config: resolved flags.
      data: the data set.
      inputs: features of stage 1.
      prefix: checkpoint of stage 1, for a CNN that runs along.
      folder: run folder.
      total: steps of one attempt.
      session_config: see `tf_runtime.start`.
    Returns:
      (outputs of the last attempt, see `predict_all`; lines of the tests of all attempts).
    """
    num_classes = len(data.class_names)
    cached = config.finetune == "none" and not config.no_cache_features and not config.augment
    x_train, x_test = (inputs.train, inputs.test) if cached else (data.train_images, data.test_images)
    fixed = fixed_strings(config, inputs.train, data)
    present = tf_runtime.checkpoints(folder)
    first_attempt = (present[0][0] - 1) // total if present else 0
    for attempt in range(first_attempt, config.retry_collisions + 1):
        with tf1.Graph().as_default():
            tf1.set_random_seed(config.seed * INITIALISATIONS + attempt)
            graph = build(config, x_train, data.train_labels, num_classes, total, fixed)
            record.describe(data)
            with tf_runtime.session(session_config) as session:
                if not cached:
                    built = f"{config.model} on {data.name}"
                    tf_runtime.restore_for_evaluation(session, prefix, built, networks.variables("cnn"))
                last = (attempt + 1) * total
                test = partial(check, session, graph, config, data, x_test, folder, attempt, last)
                history = loop.run_steps(
                    "stage 2",
                    session,
                    graph,
                    config,
                    folder,
                    len(x_train),
                    total,
                    test,
                    best_by="test/rnn_acc",
                    offset=last - total,
                    before=["test/distinct"],  # rnn_acc is too high as long as strings collide
                )
                outputs = predict_all(session, graph, x_test, config.eval_batch or config.B)
        distinct = history[-1]["test/distinct"]
        if distinct == num_classes or attempt == config.retry_collisions:
            break
        if 2**config.n_sequence < num_classes:
            print(f"--n-sequence {config.n_sequence}: too few strings for {num_classes} classes; no further attempt")
            break
        print(f"attempt {attempt + 1}: {distinct} distinct strings for {num_classes} classes; next initialisation")
    return outputs, history


def fixed_strings(config: Stage2Config, features: np.ndarray, data: datasets.Dataset) -> np.ndarray | None:
    """The strings of --codes random or tree, uint8 [C, L]; None where Class2Str learns them.

    Raises:
      UserError: too few bits for the classes, or a class without a training image.
    """
    if config.codes == "learned":
        return None
    num_classes = len(data.class_names)
    try:
        if config.codes == "random":
            return fixed_codes.random_codes(num_classes, config.n_sequence, config.seed)
        empty = np.flatnonzero(np.bincount(data.train_labels, minlength=num_classes) == 0)
        if len(empty):
            raise UserError(f"--codes tree: no training image of class {data.class_names[empty[0]]}")
        means = np.stack([features[data.train_labels == c].mean(axis=0) for c in range(num_classes)])
        return fixed_codes.tree_codes(means, config.n_sequence)
    except ValueError as error:
        raise UserError(f"--n-sequence {config.n_sequence}: {error}") from None


def check(
    session: tf1.Session,
    graph: Graph,
    config: Stage2Config,
    data: datasets.Dataset,
    x_test: np.ndarray,
    folder: Path,
    attempt: int,
    last: int,
    step: int,
) -> dict[str, float]:
    """The authors' TestHash over the whole test set; writes the strings as they are now.

    Args:
      attempt: counted from 0, for the curve.
      last: step at which this attempt ends.
      step: global step of the test.
    Returns:
      String-match accuracy, accuracy of Str2Class on the classes, distinct strings, least confidence, attempt.
    """
    outputs = predict_all(session, graph, x_test, config.eval_batch or config.B)
    q, num_classes = outputs["q"], len(data.class_names)
    table = codes.bits_of(q)
    distinct = codes.num_distinct(table)
    record.write_strings(folder, q, data, step)
    if distinct < num_classes and (distinct == 1 or step == last):
        print(f"warning: step {step}: {distinct} distinct strings for {num_classes} classes", flush=True)
    return {
        "rnn_acc": float(np.mean(codes.string_match(codes.bits_of(outputs["p"]), table, data.test_labels))),
        "inverse_acc": float(np.mean(outputs["inverse_of_q"] == np.arange(num_classes))),
        "distinct": distinct,
        "min_confidence": float(codes.min_confidence(q)),
        "attempt": attempt,
    }


def predict_all(session: tf1.Session, graph: Graph, x: np.ndarray, batch_size: int) -> dict[str, np.ndarray]:
    """Returns the network's outputs for all images and all classes.

    Returns:
      "p" float32 [N, L, 2] and "inverse_of" int64 [N]: bits of each image, and Str2Class's class of them;
      "q" float32 [C, L, 2] and "inverse_of_q" int64 [C]: the same of each class.
    Raises:
      UserError: outputs that are not finite.
    """
    parts = [
        session.run([graph.bit_probabilities, graph.inverse_of], {graph.x: part}) for part in slices(x, batch_size)
    ]
    q, inverse_of_q = session.run([graph.q, graph.inverse_of_q])
    p, inverse_of = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    loop.refuse_non_finite("stage 2", bool(np.isfinite(p).all() and np.isfinite(q).all()))
    return {"p": p, "inverse_of": inverse_of, "q": q, "inverse_of_q": inverse_of_q}


def evaluate_checkpoint(config: Stage2Config, checkpoint: str, stage1: Path, session_config: Any) -> None:
    """--eval: prints every accuracy that needs no further training, for one checkpoint."""
    config = replace(config, augment=False)  # stored features are of images that are not shifted
    data = load(config)
    with tempfile.TemporaryDirectory() as scratch:  # the checkpoint's run keeps its own
        inputs = frozen_features.compute(config, data, stage1, Path(checkpoint).parent, session_config, Path(scratch))
    fixed = None
    if config.codes != "learned":  # those of the run: a tree of other training images would be another one
        table = record.read_strings(Path(checkpoint).parent)
        if table["class_names"] != list(data.class_names):
            raise UserError(f"--dataset {config.dataset}: has other classes than the run of {shown(checkpoint)}")
        fixed = codes.from_strings(table["strings"])
    images = config.finetune != "none"
    x_train, x_test = (data.train_images, data.test_images) if images else (inputs.train, inputs.test)
    with tf1.Graph().as_default():
        tf1.set_random_seed(config.seed)
        graph = build(config, x_train, data.train_labels, len(data.class_names), 1, fixed)
        with tf_runtime.session(session_config) as session:
            built = f"LSTMs {config.lstm_units}, {config.n_sequence} bits, {data.name}"
            tf_runtime.restore_for_evaluation(session, Path(checkpoint), built)
            outputs = predict_all(session, graph, x_test, config.eval_batch or config.B)
    for name, value in evaluate.accuracies(outputs, inputs.fc_logits, data.test_labels)[0].items():
        print(f"{name:24} {value:.4f}")
