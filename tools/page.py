"""Writes one HTML file of a run or a sweep: settings, curves, the report, pictures of the masks, a table to sort.

    python tools/page.py runs/demo
    python tools/page.py runs/lenet --output lenet.html

The file needs no server and no network. Of a sweep the table and the figures show all runs, and the first `--sections`
of them have a section each.
"""

import base64
import html
import io
import json
import sys
from pathlib import Path

from absl import app, flags
from matplotlib import pyplot as plt

import compare
import figures
import runs as runs_
from published import published

FLAGS = flags.FLAGS
if __name__ == "__main__":
    flags.DEFINE_string("output", None, "The file; default: page.html in the first folder.")
    flags.DEFINE_integer("sections", 6, "How many runs have a section of their own.", 0)

OF_SWEEP = (figures.accuracy, figures.threshold, figures.overlap)
OF_RUN = (figures.budget, figures.density, figures.explored, figures.dead, figures.where)
SHOWN = "test_accuracy", "best_test_accuracy", "best_epoch", "live_weights", "parameters", "seconds", "machine"
INK = "#010203"  # stands for the page's colour of text, light or dark
MOST_PICTURES = 12

STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
       background: light-dark(#fff, #16181c); color: light-dark(#1b1d22, #e6e6e6); }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: left; }
caption { padding: .5rem 0; max-width: 60rem; }
table.sortable th { cursor: pointer; user-select: none; } table.sortable th::after { content: " \\2195"; opacity: .4; }
table.sortable th[aria-sort=ascending]::after { content: " \\2191"; opacity: 1; }
table.sortable th[aria-sort=descending]::after { content: " \\2193"; opacity: 1; }
tbody tr:hover { background: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; } figcaption { font-size: .85rem; opacity: .8; }
.masks { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.masks img { max-width: 22rem; max-height: 22rem; image-rendering: pixelated; display: block; }
details { margin: .5rem 0; } summary { cursor: pointer; }
"""
SORT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const number = text => { const n = parseFloat(text.replaceAll(",", "")); return Number.isNaN(n) ? null : n; };
  table.querySelectorAll("th").forEach((th, column) => {
    th.tabIndex = 0;
    const sort = () => {
      const up = th.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach(other => other.removeAttribute("aria-sort"));
      th.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0], cell = row => row.cells[column].textContent.trim();
      const compare = (a, b) => {
        if (!cell(a) || !cell(b)) return !cell(a) - !cell(b);  // empty ones last, both ways
        const x = number(cell(a)), y = number(cell(b));
        const order = x !== null && y !== null ? x - y : cell(a).localeCompare(cell(b));
        return up ? order : -order;
      };
      [...body.rows].sort(compare).forEach(row => body.append(row));
    };
    th.addEventListener("click", sort);
    th.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}
"""


def page(runs, sections=6) -> str:
    """Returns the HTML of runs.

    Args:
        runs: list of `runs.Run`, of at least one.
        sections: int, how many of them have a section of their own.
    """
    names = [run.path.name for run in runs]
    title = names[0] if len(runs) == 1 else f"{len(runs)} runs: {names[0]} to {names[-1]}"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if len(runs) > 1:
        table = compare.rows([(run.config, run.result) for run in runs])
        parts += ["<h2>All runs</h2>", _table(compare.HEAD, table, sortable=True)]
        parts += [
            "<p>Test accuracies in per cent, mean and standard deviation over seeds. Click on a head to sort.</p>"
        ]
        parts.append(_drawn(OF_SWEEP, runs))
    for run in runs[:sections]:
        parts += section(run)
    if len(runs) > sections:
        left = html.escape(", ".join(names[sections:]))
        parts.append(f"<p>Without a section, for which <code>--sections</code> has to be larger: {left}.</p>")
    head = (
        f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{html.escape(title)}</title>"
    )
    body = "\n".join(parts)
    return (
        f"<!doctype html>\n<html lang='en'><head>{head}\n<style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n<script>{SORT}</script>\n</body></html>\n"
    )


def section(run) -> list[str]:
    """Returns what the page tells of one run, a list of HTML."""
    result = [(name.replace("_", " "), _worded(name, run.result[name])) for name in SHOWN if name in run.result]
    theirs = published(run.config)
    result += [("published accuracy", f"{theirs}%")] if theirs else []
    settings = [(name, "" if value is None else str(value)) for name, value in sorted(run.config.items())]
    parts = [f"<h2 id='{html.escape(run.path.name)}'>{html.escape(run.path.name)}</h2>", _table((), result)]
    parts.append(f"<details><summary>Settings</summary>{_table((), settings)}</details>")
    parts += ["<h3>While it trained</h3>", _drawn((learning, *OF_RUN), [run])]
    return [*parts, *_of_model(run)]


def learning(runs):
    """Accuracy on the images trained on and on those of the test, by epoch."""
    history = runs[0].history
    if "accuracy" not in history:
        return None
    figure, axes = plt.subplots()
    for name, label, colour in (("accuracy", "training", 0), ("val_accuracy", "test", 1)):
        if name in history:
            percent = [100 * a for a in history[name]]
            axes.plot(history["epoch"], percent, color=figures.COLOURS[colour], ls=("-", "--")[colour], label=label)
    axes.set_ylabel("accuracy, %")
    figures.by_epoch(axes)
    figure.legend(loc="outside right upper", fontsize=9)
    return figure


def svg(figure) -> str:
    """Returns a figure as SVG to be part of a page, whose colour its text and axes have."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = file.getvalue()
    for ink in (INK, "#000000"):
        text = text.replace(ink, "currentColor")
    return text[text.index("<svg") :]


def _drawn(makers, runs):
    colours = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    parts = []
    for i, make in enumerate(makers):
        # A salt for each: the names inside of an SVG are those of the whole page.
        salt = {"svg.hashsalt": f"{runs[0].path}{len(runs)}{i}"}
        with plt.rc_context({**figures.STYLE, **colours, **salt}):
            figure = make(runs)
            if figure is not None:
                caption = html.escape(make.__doc__.strip().splitlines()[0])
                parts.append(f"<figure>{svg(figure)}<figcaption>{caption}</figcaption></figure>")
    return f"<div class='figures'>{''.join(parts)}</div>"


def _of_model(run):
    """The report and the pictures of the masks of a run's model."""
    path = run.path / "model.keras"
    if not path.exists():
        return []
    import keras

    import keras_sparse as ks
    from keras_sparse.report import pictures

    try:
        model = keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError) as error:  # It needs code of its own.
        return [f"<p>{html.escape(str(path))} cannot be loaded here: {html.escape(str(error))}</p>"]
    parts = ["<h3>What it is made of</h3>", f"<div class='wide'>{ks.report(model).to_html()}</div>"]
    weights = ks.masked_weights(model)
    shown = [(*pictures.of_first(model, w), w) if i == 0 else (None, None, w) for i, w in enumerate(weights)]
    images = [_image(kind, matrix, w) for kind, matrix, w in shown if matrix is not None]
    images += [_image("masks", pictures.reduced(pictures.mask_matrix(w)), w) for w in weights[:MOST_PICTURES]]
    if images:
        more = f" The first {MOST_PICTURES} of {len(weights)}." if len(weights) > MOST_PICTURES else ""
        legend = f"Light where weights live; inputs downwards, outputs to the right.{more}"
        parts += [f"<h3>Where its weights are</h3><p>{legend}</p><div class='masks'>{''.join(images)}</div>"]
    return parts


CAPTIONS = {
    "connectivity": "live weights of each pixel of an image, 0 to {:.0f}",
    "windows": "windows, a row an input channel, a column an output channel",
    "masks": "mask of {}, {:.2%} live",
}


def _image(kind, matrix, weight):
    from keras_sparse.report import pictures

    png = base64.b64encode(pictures.png(matrix)).decode()
    shape = "x".join(map(str, weight.shape))
    words = {"connectivity": (matrix.max(),), "windows": (), "masks": (shape, weight.mask.numpy().mean())}
    caption = html.escape(f"{weight.path}: {CAPTIONS[kind].format(*words[kind])}")
    picture = f"<img alt='{caption}' src='data:image/png;base64,{png}'>"
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _table(head, rows, sortable=False):
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(str(x))}</td>" for x in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{titles}</tr></thead>" if head else ""
    kind = " class='sortable'" if sortable else ""
    return f"<div class='wide'><table{kind}>{top}<tbody>{lines}</tbody></table></div>"


def _worded(name, value):
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else json.dumps(value)


def main(argv):
    """Writes the page of the runs in the folders given."""
    found = runs_.find(argv[1:])
    if not found:
        sys.exit(f"No result.json under {argv[1:]}. Name a folder of finished runs, such as runs/demo.")
    output = Path(FLAGS.output or Path(argv[1]) / "page.html")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(found, FLAGS.sections))
    print(f"{output}: open it in a browser.")


if __name__ == "__main__":
    app.run(main)
