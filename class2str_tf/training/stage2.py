"""Stage 2: LH classifier, Class2Str and Str2Class, trained together on the features of stage 1.

Source: authors' train_rnn_classifier_cifar.py and its copies; class2str.md sections 1 and 4. The maths is in model.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import datasets
from class2str_tf.data.batches import Batches, has_fixed_order, slices, steps_per_epoch
from class2str_tf.flags import load_data, run_folder
from class2str_tf.method import codes, model
from class2str_tf.method.layers import tf, tf1
from class2str_tf.networks import build as networks
from class2str_tf.training import frozen_features as features
from class2str_tf.training import record as evaluation
from class2str_tf.training.stage1 import (
    PROJECT_AFTER,
    SCALARS_EVERY,
    WARM_UP,
    announce,
    checkpoint_due,
    checkpoint_name,
    say_projection,
)
from reproduction.runtime import run_data, tf_runtime
from reproduction.runtime.run_folder import (
    MetricsLog,
    Run,
    open_run,
    read_metrics,
    stop_signals,
)

COLLAPSE_RATIO = 0.003  # w_l2 / w_i at B = 200 from which Class2Str collapses (class2str.md 4.3)
INITIALISATIONS = 1_000  # graph seed = seed * this + attempt


class Graph(NamedTuple):
    """Tensors of stage 2."""

    batches: Batches
    scalars: dict[str, tf.Tensor]
    train: tf.Operation
    x: tf.Tensor  # features or images to be classified
    bit_probabilities: tf.Tensor  # p, [B, L, 2]
    inverse_of: tf.Tensor  # argmax of Str2Class(p), [B]
    q: tf.Tensor  # Class2Str of every class, [C, L, 2]
    inverse_of_q: tf.Tensor  # argmax of Str2Class(q), [C]


def build(config: Mapping[str, Any], x: np.ndarray, labels: np.ndarray, num_classes: int, total: int) -> Graph:
    """Training and evaluation towers in the current graph.

    Args:
      config: resolved flags.
      x: training input: float32 features [N, F] of the frozen CNN, or uint8 images [N, H, W, C].
      labels: int64 [N].
      num_classes: C.
      total: steps of one attempt, for --lr-drop-at.
    """
    num_bits, hidden = config["n_sequence"], config["hidden"]
    step = tf1.train.get_or_create_global_step()
    batches = Batches(x, labels, config["B"], config["seed"], has_fixed_order(config))
    finetune = config["finetune"] == "all"

    def to_features(batch: tf.Tensor, training: bool) -> tf.Tensor:
        if batch.dtype == tf.float32:
            return batch
        outputs = networks.cnn(batch, config, training, dropout=finetune)
        return outputs if finetune else tf.stop_gradient(outputs)  # DEVIATION C2S-D02: the authors always stop it

    training = config["finetune"] != "none"  # DEVIATION C2S-D31: the MNIST script does so without --finetune bn
    bit_logits = model.lh_classifier(to_features(batches.x, training), num_bits, config["lstm_units"])
    q_logits = model.class2str(tf.one_hot(batches.labels, num_classes), num_bits, hidden)
    inverse_logits = model.str2class(tf.nn.softmax(q_logits), num_classes, hidden)
    weights = (config["w_c"], config["w_i"], config["w_l2"])
    terms = model.loss_terms(
        bit_logits, q_logits, inverse_logits, batches.labels, weights, config["mu"], config["label_grad"]
    )
    loss = terms.loss
    if finetune:
        loss += networks.WEIGHT_DECAY * networks.weight_penalty("cnn")
    matches = tf.reduce_all(tf.equal(tf.argmax(bit_logits, 2), tf.argmax(q_logits, 2)), axis=1)
    inverse_right = tf.equal(tf.argmax(inverse_logits, 1), batches.labels)
    scalars = {
        **terms._asdict(),
        "loss": loss,
        "inverse_acc": tf.reduce_mean(tf.cast(inverse_right, tf.float32)),
        "rnn_acc": tf.reduce_mean(tf.cast(matches, tf.float32)),
    }
    drop = tf.cast(step % total, tf.float32) >= config["lr_drop_at"] * total  # the step counts on over attempts
    rate = tf.where(drop, 0.1 * config["lr"], config["lr"])
    with tf.control_dependencies(tf1.get_collection(tf1.GraphKeys.UPDATE_OPS)):
        train = tf1.train.AdamOptimizer(rate).minimize(loss, global_step=step)

    placeholder = tf1.placeholder(batches.x.dtype, [None, *x.shape[1:]], name="x")
    p = tf.nn.softmax(model.lh_classifier(to_features(placeholder, False), num_bits, config["lstm_units"]))
    q = tf.nn.softmax(model.class2str(tf.eye(num_classes), num_bits, hidden))
    return Graph(
        batches, scalars, train, placeholder, p,
        tf.argmax(model.str2class(p, num_classes, hidden), 1), q,
        tf.argmax(model.str2class(q, num_classes, hidden), 1),
    )  # fmt: skip


def run_stage2(config: dict[str, Any]) -> None:
    """The whole of a stage-2 script: features, training (or going on), evaluation, record."""
    session_config = tf_runtime.start(config["seed"], config["device"], config["xla"])
    prefix = features.newest_checkpoint(Path(config["cnn_dir"]), stage1_command(config))
    if config["eval"]:
        evaluate_checkpoint(config, prefix, session_config)
        return
    with open_run(run_folder(config), config, config["overwrite"]) as run:
        seen = run_data.look_at(config)
        data = load_data(config)

        def digests() -> Mapping[str, str]:
            hint = "run stage 1 with --overwrite, or choose --cnn-dir"
            run_data.check_data(Path(config["cnn_dir"]), data.digests, hint)
            return data.digests

        if run_data.is_finished(run, seen, digests):
            return
        warn_of_collapse(config)
        inputs = features.compute(config, data, prefix, run.folder, session_config)
        total = total_steps(config, data)
        results = train_until_unique(run, data, inputs, prefix, total, session_config)
        evaluation.finish(run, data, inputs, results, total, session_config)


def total_steps(config: Mapping[str, Any], data: datasets.Dataset) -> int:
    """Steps of one attempt."""
    per_epoch = steps_per_epoch(len(data.train_labels), config["B"])
    return min(config["epochs"] * per_epoch, config["max_steps"] or sys.maxsize)


def stage1_command(config: Mapping[str, Any]) -> str:
    """The command line that makes the stage 1 this run needs."""
    if config["dataset"] == "imagenet":
        return f"class2str_tf/train_fc_classifer_imagenet.py --name {config['name']}"
    flags = f"--dataset {config['dataset']} --name {config['name']} --model {config['model']}"
    return f"class2str_tf/train_fc_classifier.py {flags}"


def warn_of_collapse(config: Mapping[str, Any]) -> None:
    """Says before training that the weights reward confident bits more than distinct ones (C2S-D23)."""
    ratio = config["w_l2"] * config["B"] / 200 / max(config["w_i"], 1e-12)
    if ratio >= COLLAPSE_RATIO:
        print(
            f"warning: --w_l2 {config['w_l2']:g} against --w_i {config['w_i']:g} usually puts several classes on one "
            "string, and string-match accuracy then means nothing; the authors ran 4 / 100 / 0.1 (w_c / w_i / w_l2)",
            file=sys.stderr,
        )


def train_until_unique(
    run: Run, data: datasets.Dataset, inputs: features.Features, prefix: Path, total: int, session_config: Any
) -> dict[str, Any]:
    """Trains; if classes share a string, trains again from the next initialisation, at most --retry-collisions times.

    The global step runs on over the attempts, so that the newest checkpoint also says which attempt it is of.

    Returns:
      {"p": float32 [N_test, L, 2], "q": float32 [C, L, 2], "inverse_of": int64 [N_test],
      "inverse_of_q": int64 [C], "attempts": [distinct strings of each attempt], "history": test lines,
      "images_per_s": float}.
    """
    config, num_classes = run.config, len(data.class_names)
    cached = config["finetune"] == "none" and not config["no_cache_features"]
    x_train, x_test = (inputs.train, inputs.test) if cached else (data.train_images, data.test_images)
    present = tf_runtime.checkpoints(run.folder)
    first_attempt = (present[0][0] - 1) // total if present else 0
    for attempt in range(first_attempt, config["retry_collisions"] + 1):
        with tf1.Graph().as_default():
            tf1.set_random_seed(config["seed"] * INITIALISATIONS + attempt)
            graph = build(config, x_train, data.train_labels, num_classes, total)
            with tf_runtime.session(session_config) as session:
                if not cached:
                    cnn = [v for v in tf1.global_variables("cnn/") if "/Adam" not in v.op.name]
                    tf_runtime.restore_for_evaluation(session, prefix, f"{config['model']} on {data.name}", cnn)
                results = train(session, graph, run, data, x_test, attempt, total)
        distinct = results["attempts"][-1]
        if distinct == num_classes or attempt == config["retry_collisions"]:
            break
        print(f"attempt {attempt + 1}: {distinct} distinct strings for {num_classes} classes; next initialisation")
    return results


def train(
    session: tf1.Session, graph: Graph, run: Run, data: datasets.Dataset, x_test: np.ndarray,
    attempt: int, total: int,
) -> dict[str, Any]:  # fmt: skip
    """The loop of stage 2, for one attempt."""
    config, folder, batch = run.config, run.folder, run.config["B"]
    per_epoch = steps_per_epoch(len(data.train_labels), batch)
    saver = tf1.train.Saver(max_to_keep=0)
    offset = attempt * total
    first = tf_runtime.restore_newest(session, saver, folder, after=offset)
    if first is None:
        first = offset
        session.run(tf1.assign(tf1.train.get_global_step(), offset))
    announce(data, config, total, first - offset)
    log = MetricsLog(folder, resume_step=first if first else -1, subfolder="logs")
    history = [line for line in read_metrics(folder) if "test/rnn_acc" in line]
    seconds_before = history[-1]["test/seconds"] if history else 0.0
    graph.batches.start(session, first - offset)

    start = time.monotonic()
    bar = tqdm(total=total * batch, initial=(first - offset) * batch, unit="img", disable=None, leave=False)
    with stop_signals() as stop:
        for step in range(first + 1, offset + total + 1):
            samples = (step - 1) * batch
            if step % SCALARS_EVERY == 1:
                values = session.run([graph.scalars, graph.train])[0]
                log.write(step, {name: float(value) for name, value in values.items()}, "train", samples)
                bar.set_postfix(loss=f"{values['loss']:.3f}", rnn_acc=f"{values['rnn_acc']:.3f}")
                loss = values["loss"]
            else:
                loss = session.run([graph.scalars["loss"], graph.train])[0]
            tf_runtime.stop_if_not_finite(loss, step, folder)
            bar.update(batch)

            if step == first + WARM_UP:
                warm = time.monotonic()
            if step == first + WARM_UP + PROJECT_AFTER:
                say_projection(bar, PROJECT_AFTER * batch, (offset + total - step) * batch, time.monotonic() - warm)
            at_end = step == offset + total
            due = checkpoint_due(step - offset, per_epoch, batch, config["legacy_batches"]) or at_end
            if due:
                checked = check(session, graph, data, x_test, batch)
                seconds = round(seconds_before + time.monotonic() - start, 3)
                line = {**checked, "attempt": attempt, "epoch": (step - offset) / per_epoch, "seconds": seconds}
                log.write(step, line, "test", samples)
                history.append({"step": step, **{f"test/{name}": value for name, value in line.items()}})
                evaluation.write_strings(folder, session.run(graph.q), data, step)
                if checked["distinct"] == 1 or (at_end and checked["distinct"] < len(data.class_names)):
                    distinct, classes = checked["distinct"], len(data.class_names)
                    bar.write(f"warning: step {step}: {distinct} distinct strings for {classes} classes")
            if due or stop.requested:
                prefix = folder / checkpoint_name(step, per_epoch, batch, config["legacy_batches"] and not at_end)
                best = [max(history, key=lambda entry: entry["test/rnn_acc"])["step"]] if history else []
                tf_runtime.save_checkpoint(session, saver, prefix, keep=best, with_graph=at_end)
            if stop.requested and not at_end:
                stop.leave(folder)
    bar.close()
    log.close()
    p, inverse_of = predict(session, graph, x_test, batch)
    q, inverse_of_q = session.run([graph.q, graph.inverse_of_q])
    ends = {line["test/attempt"]: line["test/distinct"] for line in history}
    return {
        "p": p, "q": q, "inverse_of": inverse_of, "inverse_of_q": inverse_of_q, "attempts": list(ends.values()),
        "history": history, "images_per_s": history[-1]["step"] * batch / max(history[-1]["test/seconds"], 1e-9),
    }  # fmt: skip


def predict(session: tf1.Session, graph: Graph, x: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Bit distributions float32 [N, L, 2] and Str2Class's class of them, int64 [N], for all of `x`."""
    parts = [
        session.run([graph.bit_probabilities, graph.inverse_of], {graph.x: part}) for part in slices(x, batch_size)
    ]
    return np.concatenate([p for p, _ in parts]), np.concatenate([inverse for _, inverse in parts])


def check(
    session: tf1.Session, graph: Graph, data: datasets.Dataset, x_test: np.ndarray, batch_size: int
) -> dict[str, float]:
    """The authors' TestHash over the whole test set: string-match accuracy, distinct strings, confidence."""
    p, _ = predict(session, graph, x_test, batch_size)
    q, inverse = session.run([graph.q, graph.inverse_of_q])
    table = codes.bits_of(q)
    return {
        "rnn_acc": float(np.mean(codes.string_match(codes.bits_of(p), table, data.test_labels))),
        "inverse_acc": float(np.mean(inverse == np.arange(len(inverse)))),
        "distinct": codes.num_distinct(table),
        "min_confidence": float(codes.min_confidence(q)),
    }


def evaluate_checkpoint(config: dict[str, Any], prefix: Path, session_config: Any) -> None:
    """--eval: everything of class2str.md section 7 that needs no further training, for one checkpoint."""
    data = load_data(config)
    inputs = features.compute(config, data, prefix, Path(config["eval"]).parent, session_config)
    images = config["finetune"] != "none"
    x_train, x_test = (data.train_images, data.test_images) if images else (inputs.train, inputs.test)
    with tf1.Graph().as_default():
        tf1.set_random_seed(config["seed"])
        graph = build(config, x_train, data.train_labels, len(data.class_names), 1)
        with tf_runtime.session(session_config) as session:
            built = f"LSTMs {config['lstm_units']}, {config['n_sequence']} bits, {data.name}"
            tf_runtime.restore_for_evaluation(session, Path(config["eval"]), built)
            p, inverse_of = predict(session, graph, x_test, config["B"])
            q, inverse_of_q = session.run([graph.q, graph.inverse_of_q])
    results = {"p": p, "q": q, "inverse_of": inverse_of, "inverse_of_q": inverse_of_q}
    for name, value in evaluation.accuracies(results, inputs.fc_logits, data.test_labels).items():
        print(f"{name:24} {value:.4f}")
