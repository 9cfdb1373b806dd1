"""The training loop on videos, and the score on the validation files."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from reproduction.runtime import torch_runtime as runtime
from reproduction.runtime.loop import Training, epoch_ends
from reproduction.runtime.run_folder import Stop
from reproduction.runtime.torch_runtime import World
from reproduction.runtime.torch_states import States
from subclass_torch.method import losses, neglect
from subclass_torch.yt8m import data, tfrecord
from subclass_torch.yt8m.flags import Config
from subclass_torch.yt8m.metrics import Metrics
from subclass_torch.yt8m.model import VideoNetwork, network_input

LOG_EVERY = 100
ADAM_BETAS = (0.9, 0.999)
_CHUNK = 256  # classes whose gradient sums are in memory at a time: 38 MB a matrix


def rate_at(step: int, config: Config) -> float:
    """Staircase decay: base * decay^floor(step * batch / decay_examples) [authors' subclasscnn.py]."""
    stairs = math.floor(step * config.batch_size / config.learning_rate_decay_examples)
    return config.base_learning_rate * config.learning_rate_decay**stairs


def epsilon_at(step: int) -> float:
    """The epsilon with which torch.optim.Adam makes the update number `step` (from 0) as TensorFlow 1's Adam does.

    TensorFlow 1 adds 1e-8 to the square root of the uncorrected second moment v, PyTorch to that of v / (1 - b2^t):
    with t = step + 1,  lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + 1e-8)  is PyTorch's update with this epsilon.
    Source: tf.train.AdamOptimizer of TensorFlow 1.13, the default epsilon of which the authors keep.
    """
    return 1e-8 / math.sqrt(1 - ADAM_BETAS[1] ** (step + 1))


def train_stage(
    config: Config,
    stage: str,
    model: VideoNetwork,
    paths: list[Path],
    criterion: Callable[[Tensor, Tensor], Tensor],
    world: World,
    stop: Stop,
    folder: Path,
    observe: bool,
) -> Training:
    """Trains over a stream of videos, from the newest checkpoint if there is one.

    Args:
      config: the resolved flags.
      stage: name in seeds and messages.
      model: on the device, trained in place.
      paths: training shards.
      criterion: (logits [B, S], indicator [B, S]) -> float32 [B].
      world: this process and its device.
      stop: set by SIGINT or SIGTERM.
      folder: the stage's run folder.
      observe: measure the neglection degree.
    Returns:
      The finished training; its `state` holds degrees [E][S], skipped (non-finite degrees) and loss (of the last step).
    Raises:
      UserError: broken records (naming file and record), non-finite loss.
    """
    outputs, device, seed = model.dense.out_features, world.device, config.seed
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.base_learning_rate, betas=ADAM_BETAS, fused=runtime.fused(model.parameters())
    )
    net: nn.Module = torch.compile(model) if config.compile else model  # type: ignore[assignment]
    # files without a whole record count as one step, in which reading them is refused
    videos_in_all = sum(map(tfrecord.count, paths))
    steps = max(1, math.ceil(videos_in_all / config.batch_size))
    ends = epoch_ends(steps, config.num_epochs, config.max_steps)
    totals = neglect.new_totals(outputs, device)
    training = Training(
        stage,
        folder,
        ends,
        config.batch_size,
        States(folder, world, {"model": model, "optimizer": optimizer}),
        stop,
        checkpoint_steps=config.checkpoint_steps,
        log_by="step",
        state={"totals": totals, "degrees": [], "skipped": 0, "loss": 0.0},
    )
    state = training.state
    for epoch in training.epochs():
        stream = data.batches(
            paths,
            config.batch_size,
            outputs,
            seed,
            epoch,
            config.shuffle_data,
            config.shuffle_buffer_size,
            skip=training.step_in_epoch,
            ahead=config.num_parallel_calls,
        )
        model.train()
        with contextlib.closing(stream), neglect.watch(model.penultim_layer) as seen:
            for step, videos in zip(training.steps(videos_in_all), stream, strict=False):
                optimizer.param_groups[0] |= {"lr": rate_at(step, config), "eps": epsilon_at(step)}
                features = torch.from_numpy(videos.features).to(device)
                noise = torch.randn(features.shape, generator=runtime.generator(seed, "yt8m", stage, "noise", step))
                truth = torch.from_numpy(data.indicator(videos.labels, outputs)).to(device)
                torch.manual_seed(runtime.derive(seed, "yt8m", stage, "dropout", step))
                # DEVIATION SDN-Y11: float32, not compiled, unless a flag asks for speed
                with runtime.autocast(device, config.amp):
                    logits = net(network_input(features, noise.to(device)))
                entropy = criterion(logits, truth).mean()
                loss = entropy + model.penalty() if config.l2 == "declared" else entropy
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                if observe:
                    r, count = neglect.batch_degree(seen[0], logits, truth, chunk=_CHUNK)
                    neglect.add_batch(state["totals"], r, count, len(features))
                state["loss"] = entropy.detach()
                training.log(entropy)
                if ((step + 1) % LOG_EVERY == 0 or step + 1 == ends[-1]) and training.metrics is not None:
                    training.metrics.write(step + 1, {"loss": float(state["loss"]), "lr": rate_at(step, config)})
        if observe:
            neglect.end_epoch(state)
        training.end_epoch({})
    return training


@torch.no_grad()
def score(
    model: nn.Module, paths: list[Path], subclass2class: Tensor, config: Config, world: World
) -> dict[str, float]:
    """Hit@1, PERR, MAP, GAP on class scores after the maximum over subclasses, and the loss on these scores."""
    classes, loss = config.num_classes, 0.0
    metrics = Metrics(classes, config.top_k)
    model.eval()
    for videos in data.batches(paths, config.batch_size, classes, ahead=config.num_parallel_calls):
        features = torch.from_numpy(videos.features).to(world.device)
        with runtime.autocast(world.device, config.amp):
            logits = model(network_input(features))
        scores = losses.class_scores(torch.sigmoid(logits.float()), subclass2class, classes)
        truth = data.indicator(videos.labels, classes)
        y = torch.from_numpy(truth).to(world.device)
        # DEVIATION SDN-Y07: loss of class scores, not of subclass outputs against class labels
        entropy = -(y * torch.log(scores + losses.EPS) + (1 - y) * torch.log(1 - scores + losses.EPS))
        loss += float(entropy.sum())
        metrics.add(scores.cpu().numpy(), truth)
    return {**metrics.result(), "class_loss": loss / metrics.videos}
