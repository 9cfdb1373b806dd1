"""Scripts read their flags before they import a framework: --help, --print-config and a wrong flag answer at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.test_layout import PAPERS, ROOT

SLOW = ("torch", "tensorflow", "tf_slim", "sklearn", "lightning", "umap", "hdbscan", "scipy", "matplotlib")
SEEDED = """
class2str_tf/train_fc_classifier.py class2str_tf/train_fc_classifer_cifar100.py
class2str_tf/train_fc_classifer_imagenet.py class2str_tf/train_rnn_classifier_cifar.py
class2str_tf/train_rnn_classifier_cifar100.py class2str_tf/train_rnn_classifer_mnist.py
class2str_tf/train_rnn_classifer_imagenet.py triplet_tf/main.py triplet_tf/fast_fgvr_semi_train.py triplet_tf/eval.py
"""
SVHN = "--dataset svhn --model vgg16 --cutout --length 20 --subclass --numClasses2Repartition 2"
SCRIPTS: dict[str, tuple[str, dict]] = {  # flags, and some that they resolve to; predict.py has no others
    **dict.fromkeys(SEEDED.split(), ("--seed 7", {"seed": 7})),
    "class2str_tf/predict.py": ("--run a --image b", {"run": "a", "image": "b"}),
    "subclass_torch/notebook.py": (SVHN, {"learning_rate": 0.01}),
    "subclass_torch/notebook_yt8m.py": ("", {"dataset": "yt8m"}),
    "subclass_torch/predict.py": ("--checkpoint a --image b", {"checkpoint": "a", "image": "b", "top": 5}),
    "subclass_torch/ranking.py": ("--runs a", {}),
    "finegrained_torch/main.py": ("--dataset cifar100", {"dataset": "cifar100"}),
    "finegrained_torch/pipeline.py": ("--dataset cifar100", {"dataset": "cifar100"}),
    "hierarchy_cnn_torch/train.py": ("--dataset cifar100", {"tree": "official", "augment": "crop_flip", "arm": "A0"}),
    "hierarchy_cnn_torch/analyze.py": ("--run a", {}),
}


def test_every_script_is_listed():
    files = [file for paper in PAPERS for file in (ROOT / paper).glob("*.py") if file.name != "reproduce.py"]
    scripts = {str(file.relative_to(ROOT)) for file in files if '__name__ == "__main__"' in file.read_text()}
    assert scripts == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_starts_without_a_framework_from_its_folder_and_as_a_module(script, tmp_path):
    for name in SLOW:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    folder, _, file = script.partition("/")
    line, expected = SCRIPTS[script]

    def started(cwd, *words, code=0):
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode == code and (done.stderr.count("\n") == 1 if code else not done.stderr), done.stderr
        return done

    config = json.loads(started(ROOT / folder, file, *line.split(), "--print-config").stdout)
    module = f"{folder}.{file.removesuffix('.py')}"
    assert config == json.loads(started(ROOT, "-m", module, *line.split(), "--print-config").stdout)
    assert config.items() >= expected.items() and (file != "predict.py" or config == expected)
    assert "usage: " in started(ROOT / folder, file, "--help").stdout
    assert "--no-such" in started(ROOT / folder, file, *line.split(), "--no-such", code=2).stderr
