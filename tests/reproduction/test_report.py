"""The page: complete, self-contained, safe with what lies in run folders, and small enough."""

from __future__ import annotations

import html.parser
import io
import json
import math
import os
import re
import shutil
import subprocess
from urllib.parse import unquote

import pytest
from PIL import Image

from reproduction.compare.claims import check_claims
from reproduction.compare.collect import collect
from reproduction.compare.comparison import compare
from reproduction.compare.tables import load_tables, paper_of
from reproduction.page import curves, gallery, htmltables, report


class Page(html.parser.HTMLParser):
    """Collects what a page would load, its ids and text; fails on tags that do not close."""

    VOID = {"meta", "img", "line", "path", "br", "hr", "link", "input"}

    def __init__(self, text: str):
        super().__init__()
        self.loads, self.links, self.ids, self.open, self.text = [], [], [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.loads += [given[name] for name in ("src", "srcset", "data", "poster") if name in given]
        self.loads += [given.get("href", "")] if tag in ("link", "use", "image", "base") else []
        self.links += [given["href"]] if tag == "a" else []
        self.ids += [given["id"]] if "id" in given else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def png(width=60, height=40, noise=False) -> bytes:
    pixels = os.urandom(3 * width * height) if noise else bytes(3 * width * height)
    out = io.BytesIO()
    Image.frombytes("RGB", (width, height), pixels).save(out, "PNG")
    return out.getvalue()


def run_folder(make, root, seed=0, artefacts=(), row="mnist5k-cpu", **changes):
    metrics = {"fc_accuracy": make.metric(0.96), "lh_accuracy": make.metric(0.955)}
    made = make.record(metrics, row=row, seed=seed, artefacts=list(artefacts), curve="metrics.jsonl", **changes)
    folder = make.put(root, made).parent
    lines = [{"step": k, "train/loss": math.exp(-k / 50), "test/rnn_acc": k / 400} for k in range(0, 400, 4)]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder


def build(root, page, paper=None) -> str:
    papers = [paper_of(paper)] if paper else list(load_tables().values())
    found = collect(runs=root, results=root / "none")
    return report.build(compare(papers, found), found, page)


def test_every_row_behind_a_machine_or_a_file_is_named_once_under_its_paper():
    rows = {("subclass", "a"), *(("class2str", f"row{k}") for k in range(9))}
    named = ", ".join(f"row{k}" for k in range(9))
    assert report.used_by(rows) == f"class2str: {named}; subclass: a"


def test_page_of_nothing(tmp_path):
    page = Page(build(tmp_path, tmp_path / "report.html"))
    assert "Nothing has been run yet" in page.text
    assert {"overview", "claims", *load_tables()} <= set(page.ids)
    assert "needs a CUDA GPU" in page.text


def test_page_loads_nothing_and_links_to_its_sections(make, tmp_path):
    item = {"kind": "image", "path": "tree.png", "title": "Strings as a tree"}
    folder = run_folder(make, tmp_path, artefacts=[item])
    (folder / "tree.png").write_bytes(png())
    text = build(tmp_path, tmp_path / "report.html")
    page = Page(text)
    assert page.loads and all(load.startswith("data:image/") for load in page.loads)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|<link|<iframe|<object|<embed", text)
    assert "default-src 'none'" in text
    targets = [link[1:] for link in page.links if link.startswith("#")]
    assert len(targets) >= 4 and set(targets) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_page_shows_rows_claims_curves_pictures_machines(make, tmp_path):
    items = [
        {"kind": "image", "path": "tree.png", "title": "Strings as a tree"},
        {"kind": "text", "path": "tree.txt", "title": "Strings as text"},
        {"kind": "json", "path": "tree.json", "title": "Strings as JSON"},
        {"kind": "html", "path": "view.html", "title": "Viewer"},
        {"kind": "npz", "path": "e.npz", "title": "Embeddings"},
        {"kind": "image", "path": "gone.png", "title": "Deleted picture"},
    ]
    for seed in range(3):
        folder = run_folder(make, tmp_path, seed, items, deviations=["C2S-D01"])
        (folder / "tree.png").write_bytes(png())
        (folder / "tree.txt").write_text("root <b>&\n")
        (folder / "tree.json").write_text('{"a": 1}')
        (folder / "view.html").write_text("x")
        (folder / "e.npz").write_bytes(b"x")
    text = build(tmp_path, tmp_path / "out" / "report.html", "class2str")
    page = Page(text)
    for part in (
        "96.00 ± 0.00 (3)",
        "not comparable (cpu profile, mnist5k)",
        "C2S-C1",
        "test/rnn_acc",
        "seed 2",
        "root <b>&",
        "gone.png: not in its run folder any more",
        "verified",
        "needs official CIFAR-10",
        "Not run, and why",
        "C2S-D01",
        "Every published number we have (143)",
    ):
        assert part in page.text, part
    assert len(re.findall(r'<g class="k\d"><path', text)) == 2 * 3
    assert "../class2str/mnist5k-cpu/seed0/lh/view.html" in page.links
    assert str(tmp_path) not in text


@pytest.mark.parametrize("path", ["../../../../../secret.txt", "/etc/passwd", "link.txt"])
def test_artefacts_outside_the_run_folder_are_not_read(make, tmp_path, path):
    (tmp_path / "secret.txt").write_text("SECRET")
    folder = run_folder(make, tmp_path / "runs", artefacts=[{"kind": "text", "path": path, "title": "t"}])
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    text = build(tmp_path / "runs", tmp_path / "report.html")
    assert "SECRET" not in text and "root:x:0" not in text
    assert "not in its run folder any more" in text


def test_titles_and_names_cannot_break_the_page(make, tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    items = [{"kind": "image", "path": "a.png", "title": evil}, {"kind": "html", "path": "50% #1?.html", "title": evil}]
    runs, row = tmp_path / "javascript:alert(3)", 'mnist5k-cpu-"><script>alert(2)</script>'.replace("/", "_")
    folder = run_folder(make, runs, artefacts=items, row=row)
    (folder / "a.png").write_bytes(png())
    (folder / "50% #1?.html").touch()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("\n" + json.dumps({"step": 1, evil: 1.0}))
    text = build(tmp_path, tmp_path / "report.html")
    assert text.count("<script>") == 1 and "&lt;script&gt;alert(1)" in text
    [link] = [link for link in Page(text).links if link.endswith(".html")]
    assert ":" not in link and (tmp_path / unquote(link)).samefile(folder / "50% #1?.html")


def test_no_name_of_a_user_is_on_the_page(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert gallery.without_folders("/home/me/runs/record.json: left out") == "~/runs/record.json: left out"
    assert gallery.without_folders("/scratch/me/a/b/c/record.json: left out") == ".../a/b/c/record.json: left out"
    assert gallery.without_folders("/mnt/home/me/record.json") == "/mnt/home/me/record.json"
    monkeypatch.setenv("HOME", "/")
    assert gallery.without_folders("runs/a/record.json: left out") == "runs/a/record.json: left out"


ODD_LOGS = [
    b"",
    b"\xff\xfe",
    b"[1]\n{}\n",
    b'{"step": "a"}',
    b'{"step": NaN, "x": 1}',
    b'{"step": 1, "x": Infinity}',
    b"[" * 9999,
    b'{"step": 1, "x": 1' + b"0" * 400 + b"}",
]


@pytest.mark.parametrize("log", ODD_LOGS)
def test_odd_logs_draw_nothing(make, tmp_path, log):
    folder = run_folder(make, tmp_path)
    (folder / "metrics.jsonl").write_bytes(log)
    assert 'class="chart"' not in build(tmp_path, tmp_path / "report.html")


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n broken"])
def test_odd_pictures_do_not_stop_the_page(make, tmp_path, data):
    folder = run_folder(make, tmp_path, artefacts=[{"kind": "image", "path": "a.png", "title": "t"}])
    (folder / "a.png").write_bytes(data)
    Page(build(tmp_path, tmp_path / "report.html"))


def test_a_large_picture_that_is_damaged_inside_does_not_stop_the_page(make, tmp_path):
    large = png(600, 400, noise=True)
    second = large.index(b"IDAT", large.index(b"IDAT") + 4)
    damaged = large[:second] + bytes(4) + large[second + 4 :]  # no kind of chunk: Pillow raises SyntaxError
    assert len(damaged) > gallery.IMAGE_BYTES
    folder = run_folder(make, tmp_path, artefacts=[{"kind": "image", "path": "a.png", "title": "t"}])
    (folder / "a.png").write_bytes(damaged)
    Page(build(tmp_path, tmp_path / "report.html"))


def test_large_pictures_are_scaled_down():
    large = png(1500, 900, noise=True)
    assert len(large) > 3_000_000
    small = gallery.shrink(large)
    with Image.open(io.BytesIO(small)) as image:
        assert image.size == (1400, 840)


def test_a_thousand_records(make, tmp_path):
    """40 rows of 25 seeds, each with a log and a picture: one page, below the limit, every row on it."""
    item, picture = {"kind": "image", "path": "a.png", "title": "t"}, png(600, 300, noise=True)
    for row in range(40):
        for seed in range(25):
            paper = "class2str" if row % 2 else "subclass"
            folder = run_folder(make, tmp_path, seed, [item], row=f"mnist5k-cpu-v{row}", paper=paper)
            (folder / "a.png").write_bytes(picture)
    text = build(tmp_path, tmp_path / "report.html")
    assert len(text.encode()) < report.MAX_BYTES
    assert "1000 records in 40 rows" in text and "left out, the page would grow too large" in text
    assert all(f"mnist5k-cpu-v{row}<" in text for row in range(40))


def test_thinning_keeps_the_mean_and_the_end():
    series = [(float(k), math.sin(k / 9)) for k in range(1000)]
    thin = curves.thinned(series, 100)
    assert len(thin) == 100 and thin[-1] == series[-1]
    assert [x for x, _ in thin] == sorted(x for x, _ in thin)
    assert curves.thinned(series[:50], 100) == series[:50]
    constant = curves.thinned([(float(k), 2.5) for k in range(777)], 10)
    assert all(y == pytest.approx(2.5) for _, y in constant)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.31, 0.97), (-3.0, 12000.0), (1e-6, 2e-6), (0, 1e9), (5.0, 5.0)]
)
def test_ticks_are_round_inside_and_evenly_spaced(low, high):
    svg = curves.chart("x", {0: [(0.0, low), (1.0, high)]})
    across = re.findall(r"text-anchor: end[^>]*>([^<]+)<", svg)  # labels of the vertical axis
    units = {"k": 1e3, "M": 1e6}
    found = [float(text.rstrip("kM")) * units.get(text[-1], 1) for text in across]
    assert 1 <= len(found) <= 6
    if low == high:
        assert min(found) < low < max(found)
        return
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    assert all(low - 1e-9 * (high - low) <= tick <= high + 1e-9 * (high - low) for tick in found)
    steps = {round((b - a) / (high - low), 6) for a, b in zip(found, found[1:], strict=False)}
    assert len(steps) <= 1


def test_colours_follow_the_seed_even_where_one_has_no_curve():
    line = [(0.0, 1.0), (1.0, 2.0)]
    svg = curves.chart("x", {0: line, 1: [], 2: line})
    assert re.findall(r'<g class="(k\d)">', svg) == ["k0", "k2"]
    assert re.findall(r"stroke: var\(--s(\d)\)", svg) == ["0", "2"] and "id=" not in svg and "#" not in svg


def test_a_single_point_is_a_dot_and_epochs_are_whole():
    dot = r'<g class="k0"><path d="M[\d. ]+h0"[^>]*stroke-linecap: round'
    assert re.search(dot, curves.chart("x", {0: [(1.0, 2.0)]}))
    assert 'aria-label="x over epochs"' in curves.chart("x", {0: [(1.0, 2.0)]}, "epochs")
    whole = curves.chart("x", {0: [(1.0, 1.0), (3.0, 2.0)]})
    assert re.findall(r"text-anchor: middle[^>]*>([^<]+)<", whole) == ["1", "2", "3"]
    assert ">1.5<" in curves.chart("x", {0: [(1.0, 1.0), (1.5, 1.0), (3.0, 2.0)]})


def test_two_stages_that_log_one_scalar_are_two_charts(make, tmp_path):
    """Else the arms of the hierarchy study would stand under one name, the last one winning."""
    for arm in ("A0", "A1"):
        folder = run_folder(make, tmp_path, paper="hierarchy", row="cifar10-cpu", stage=arm)
        lines = [{"step": 1, "train/loss": 2.0, f"{arm}/only": 1.0}, {"step": 2, "train/loss": 1.0}]
        (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    group = collect(runs=tmp_path, results=tmp_path / "none").rows["hierarchy", "cifar10-cpu"]
    everything = ["A0: train/loss", "A0/only", "A1: train/loss", "A1/only"]
    assert [name for name, _ in curves.row_charts(group, [])[0]] == everything
    assert [name for name, _ in curves.row_charts(group, ["train/loss"])[0]] == ["A0: train/loss", "A1: train/loss"]
    assert [name for name, _ in curves.row_charts(group, ["A1: train/loss", "lr"])[0]] == ["A1: train/loss"]


def test_wide_pictures_take_the_whole_width(make, tmp_path):
    items = [{"kind": "image", "path": f"{name}.png", "title": name} for name in ("wide", "square")]
    folder = run_folder(make, tmp_path, artefacts=items)
    (folder / "wide.png").write_bytes(png(90, 30))
    (folder / "square.png").write_bytes(png(60, 60))
    text = build(tmp_path, tmp_path / "report.html", "class2str")
    assert re.findall(r'<figure( class="broad")?><img alt="(\w+)"', text) == [
        (' class="broad"', "wide"),
        ("", "square"),
    ]


def test_pictures_of_a_seed_that_no_record_lists_stand_on_the_page_once(make, tmp_path):
    """Two rows share the seed's folder, as the fine-grained rows do; a link out of it is not followed."""
    (tmp_path / "secret.png").write_bytes(png(31, 31))
    wanted = paper_of("finegrained").paper.pictures
    assert [item.path for item in wanted][:1] == ["figures/uncertainty.png"] and len(wanted) == 4
    seed = tmp_path / "runs" / "finegrained" / "mnist5k-cpu" / "seed42"
    for row, stage in (("mnist5k-cpu", "classifier/mnist5k"), ("mnist5k-cpu-ft", "fine-tuning/mnist5k/pseudo/plain")):
        made = make.record({"accuracy": make.metric(0.9)}, paper="finegrained", row=row, seed=42, stage=stage[:4])
        (seed / stage).mkdir(parents=True)
        (seed / stage / "record.json").write_text(made.model_dump_json())
    (seed / "figures").mkdir()
    (seed / "figures" / "uncertainty.png").write_bytes(png())
    (seed / "figures" / "certainty.png").symlink_to(tmp_path / "secret.png")
    text = build(tmp_path / "runs", tmp_path / "report.html", "finegrained")
    assert text.count("<img ") == text.count(wanted[0].title) // 2 == 1


def test_a_claim_stands_once_above_the_rows_it_was_tested_on(make, tmp_path):
    for row in ("mnist5k-cpu", "cifar10-cpu"):
        for seed in range(3):
            metrics = {"fc_accuracy": make.metric(0.9), "class_accuracy_ml": make.metric(0.895)}
            make.put(tmp_path, make.record(metrics, row=row, seed=seed))
    found = collect(runs=tmp_path, results=tmp_path / "none")
    text = htmltables.claims_table(check_claims(paper_of("class2str"), found))
    group = next(part for part in text.split("<tbody>") if "C2S-C1-poster:" in part)
    assert group.count("<tr>") == 2 and 'rowspan="2"' in group and group.count("C2S-C1-poster:") == 1
    assert "accuracy by the most likely string" in group
    assert "mnist5k-cpu" in group and "cifar10-cpu" in group


def test_rows_of_one_command_that_were_not_run_stand_together(tmp_path):
    found = collect(runs=tmp_path, results=tmp_path / "none")
    [comparison] = compare([paper_of("class2str")], found)
    text = htmltables.not_run(comparison, {"mnist5k-cpu"})
    together = ("", "-budget", "-stop", "-frozen", "-released")
    assert ", ".join(f"cifar10-paper{variant}" for variant in together) in text
    assert all(row.row in text for row in comparison.paper.row if row.row != "mnist5k-cpu")
    assert "<code>mnist5k-cpu<" not in text


def test_command_writes_page_and_markdown(make, tmp_path, capsys):
    run_folder(make, tmp_path / "runs")
    assert report.main(["--out", str(tmp_path / "a b" / "r.html"), "--runs", str(tmp_path / "runs")]) == 0
    assert "needs no network" in capsys.readouterr().out
    assert (tmp_path / "a b" / "r.html").read_text().startswith("<!doctype html>")
    assert "| mnist5k-cpu | FC % | 99.38 | 96.00 (1) |" in (tmp_path / "a b" / "r.md").read_text()
    with pytest.raises(SystemExit):  # the Markdown would replace the page
        report.main(["--out", str(tmp_path / "r.md"), "--runs", str(tmp_path / "runs")])
    assert "--out" in capsys.readouterr().err and not (tmp_path / "r.md").exists()


CHROMIUM = shutil.which("chromium")


def test_a_page_on_one_paper_shows_its_claims_once(make, tmp_path):
    run_folder(make, tmp_path / "runs")
    one, all_papers = (build(tmp_path / "runs", tmp_path / "r.html", paper) for paper in ("class2str", None))
    assert (one.count("C2S-C1:"), all_papers.count("C2S-C1:")) == (1, 2)
    assert 'href="#claims"' not in one and 'href="#claims"' in all_papers


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_in_a_real_browser(make, tmp_path):
    """Chromium renders the page without an error, and sorting works."""
    long = {"kind": "csv", "path": f"{'log_' * 20}.csv", "title": "A log with a name that is wider than a phone"}
    for seed in range(3):
        folder = run_folder(make, tmp_path / "runs", seed, [long])
        (folder / long["path"]).write_text("epoch\n")
    text = build(tmp_path / "runs", tmp_path / "r.html")
    probe = """<script>addEventListener("load", () => {
      const named = (t) => [...t.tHead.rows[0].cells].findIndex((h) => h.textContent === "ours");
      const table = [...document.querySelectorAll("table.sortable")].find((t) => named(t) >= 0);
      const column = named(table), head = [...table.tHead.rows[0].cells];
      const values = () => [...table.tBodies[0].rows].map((r) => parseFloat(r.cells[column].textContent));
      head[column].querySelector("button").click(); const up = values();
      head[column].querySelector("button").click(); const down = values();
      const claims = [...document.querySelectorAll("table.sortable")].find((t) => t.tBodies.length > 1);
      const first = () => [...claims.tBodies].map((b) => b.rows[0].cells[0].textContent.split(":")[0]);
      const given = first(); claims.tHead.rows[0].cells[0].querySelector("button").click();
      claims.tHead.rows[0].cells[0].querySelector("button").click(); const turned = first();
      document.body.dataset.probe = JSON.stringify({up, down, given, turned,
        wide: document.documentElement.scrollWidth > innerWidth,
        sort: head[column].getAttribute("aria-sort")});
    });</script></body>"""
    (tmp_path / "r.html").write_text(text.replace("</body>", probe))
    off = ["gpu", "quic", "background-networking", "component-update", "sync"]
    flags = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in off)]
    flags += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900", "--virtual-time-budget=3000"]
    command = [CHROMIUM, *flags, "--dump-dom", (tmp_path / "r.html").as_uri()]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    match = re.search(r'data-probe="([^"]*)"', answer.stdout)
    assert match, answer.stderr[-2000:]
    probe_values = json.loads(match.group(1).replace("&quot;", '"'))
    up, down = ([value for value in probe_values[way] if value is not None] for way in ("up", "down"))
    assert len(up) == 2 and up == sorted(up) == down[::-1]
    assert up == probe_values["up"][:2] and down == probe_values["down"][:2]  # what has no number stands last
    assert sorted(probe_values["given"]) == sorted(probe_values["turned"]) and len(probe_values["given"]) >= 10
    assert probe_values["turned"][0].startswith("STL-") and probe_values["turned"][-1].startswith("C2S-")
    assert probe_values["sort"] == "descending" and probe_values["wide"] is False
