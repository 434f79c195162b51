"""Writes an HTML page about a run or a sweep: settings, curves, the report, images of masks, a sortable table.

    python tools/page.py runs/demo
    python tools/page.py runs/lenet --output lenet.html

The page is one file that needs no server and no network. For a sweep, the table and figures at the top show all runs.
The first `--sections` runs have a section each.
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
from published import published_accuracy

FLAGS = flags.FLAGS
if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Path of the page; default: page.html in the first folder.")
    flags.DEFINE_integer("sections", 6, "Maximum number of runs with their own section.", 0)

SWEEP_FIGURES = (figures.accuracy, figures.threshold, figures.overlap)
RUN_FIGURES = (figures.budget, figures.density, figures.explored, figures.dead, figures.where)
RESULT_FIELDS = "test_accuracy", "best_test_accuracy", "best_epoch", "live_weights", "parameters", "seconds", "machine"
TEXT_COLOR = "#010203"  # replaced by the text color of the page, which is light or dark
MAX_MASKS = 12

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
        if (!cell(a) || !cell(b)) return !cell(a) - !cell(b);  // Empty cells are last in both orders.
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
    """Returns the page as HTML.

    Args:
        runs: list of at least one `runs.Run`.
        sections: int of at least 0, the maximum number of runs with their own section.
    """
    names = [run.path.name for run in runs]
    title = names[0] if len(runs) == 1 else f"{len(runs)} runs: {names[0]} to {names[-1]}"
    parts = [f"<h1>{html.escape(title)}</h1>"]
    if len(runs) > 1:
        table = compare.rows(runs)
        parts += ["<h2>All runs</h2>", _table(compare.COLUMNS, table, sortable=True)]
        parts += [
            "<p>Test accuracies in percent, mean and standard deviation over seeds. Click on a column to sort.</p>"
        ]
        parts.append(_figures(SWEEP_FIGURES, runs))
    for run in runs[:sections]:
        parts += section(run)
    if len(runs) > sections:
        left = html.escape(", ".join(names[sections:]))
        parts.append(f"<p>Runs without a section, which a larger <code>--sections</code> would show: {left}.</p>")
    head = (
        f"<meta charset='utf-8'><meta name='viewport' content='width=device-width'><title>{html.escape(title)}</title>"
    )
    body = "\n".join(parts)
    return (
        f"<!doctype html>\n<html lang='en'><head>{head}\n<style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n<script>{SORT}</script>\n</body></html>\n"
    )


def section(run) -> list[str]:
    """Returns the section of one run, a list of HTML elements."""
    result = [
        (name.replace("_", " "), _format_value(name, run.result[name])) for name in RESULT_FIELDS if name in run.result
    ]
    published = published_accuracy(run.config)
    result += [("published accuracy", f"{published}%")] if published else []
    settings = [(name, "" if value is None else str(value)) for name, value in sorted(run.config.items())]
    parts = [f"<h2 id='{html.escape(run.path.name)}'>{html.escape(run.path.name)}</h2>", _table((), result)]
    parts.append(f"<details><summary>Settings</summary>{_table((), settings)}</details>")
    parts += ["<h3>Training</h3>", _figures((learning_curves, *RUN_FIGURES), [run])]
    return [*parts, *_model_section(run)]


def learning_curves(runs):
    """Accuracy on training and test images, by epoch."""
    history = runs[0].history
    if "accuracy" not in history:
        return None
    figure, axes = plt.subplots()
    for name, label, color in (("accuracy", "training", 0), ("val_accuracy", "test", 1)):
        if name in history:
            percent = [100 * a for a in history[name]]
            axes.plot(history["epoch"], percent, color=figures.COLORS[color], ls=("-", "--")[color], label=label)
    axes.set_ylabel("accuracy, %")
    figures.by_epoch(axes)
    figure.legend(loc="outside right upper", fontsize=9)
    return figure


def svg(figure) -> str:
    """Returns a figure as an SVG element, with text and axes in the text color of the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    plt.close(figure)
    text = file.getvalue()
    for color in (TEXT_COLOR, "#000000"):
        text = text.replace(color, "currentColor")
    return text[text.index("<svg") :]


def _figures(makers, runs):
    """Returns the figures of runs as HTML. `makers` is a list of functions as in `figures.FIGURES`."""
    colors = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT_COLOR
    )
    parts = []
    for i, make in enumerate(makers):
        # matplotlib derives the ids of SVG elements from the salt. They must be unique within the page.
        salt = {"svg.hashsalt": f"{runs[0].path}{len(runs)}{i}"}
        with plt.rc_context({**figures.STYLE, **colors, **salt}):
            figure = make(runs)
            if figure is not None:
                caption = html.escape(make.__doc__.strip().splitlines()[0])
                parts.append(f"<figure>{svg(figure)}<figcaption>{caption}</figcaption></figure>")
    return f"<div class='figures'>{''.join(parts)}</div>"


def _model_section(run):
    """Returns the report and the images of the masks of a run's model, a list of HTML elements."""
    path = run.path / "model.keras"
    if not path.exists():
        return []
    import keras

    import keras_sparse as ks
    from keras_sparse.report import mask_images

    try:
        model = keras.models.load_model(path, compile=False)
    except (ValueError, TypeError, OSError) as error:  # It may need custom code.
        return [f"<p>{html.escape(str(path))} cannot be loaded here: {html.escape(str(error))}</p>"]
    parts = ["<h3>Final model</h3>", f"<div class='wide'>{ks.report(model).to_html()}</div>"]
    weights = ks.masked_weights(model)
    shown = [
        (*mask_images.first_layer_image(model, w), w) if i == 0 else (None, None, w) for i, w in enumerate(weights)
    ]
    images = [_mask_image(kind, matrix, w) for kind, matrix, w in shown if matrix is not None]
    images += [_mask_image("masks", mask_images.downsample(mask_images.mask_matrix(w)), w) for w in weights[:MAX_MASKS]]
    if images:
        more = f" Only the first {MAX_MASKS} of {len(weights)} masks are shown." if len(weights) > MAX_MASKS else ""
        legend = f"Light where weights are live, with a row for each input and a column for each output unit.{more}"
        parts += [f"<h3>Masks</h3><p>{legend}</p><div class='masks'>{''.join(images)}</div>"]
    return parts


CAPTIONS = {
    "connectivity": "number of live weights of each pixel, 0 to {:.0f}",
    "windows": "kernels, with a row for each input and a column for each output channel",
    "masks": "mask of {}, {:.2%} live",
}


def _mask_image(kind, matrix, weight):
    from keras_sparse.report import mask_images

    png = base64.b64encode(mask_images.encode_png(matrix)).decode()
    shape = "x".join(map(str, weight.shape))
    words = {"connectivity": (matrix.max(),), "windows": (), "masks": (shape, weight.mask.numpy().mean())}
    caption = html.escape(f"{weight.path}: {CAPTIONS[kind].format(*words[kind])}")
    picture = f"<img alt='{caption}' src='data:image/png;base64,{png}'>"
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _table(head, rows, sortable=False):
    """Returns a table as HTML. `head` is a sequence of column titles, empty for none; `rows` a list of sequences."""
    titles = "".join(f"<th>{html.escape(title)}</th>" for title in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(str(x))}</td>" for x in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{titles}</tr></thead>" if head else ""
    kind = " class='sortable'" if sortable else ""
    return f"<div class='wide'><table{kind}>{top}<tbody>{lines}</tbody></table></div>"


def _format_value(name, value):
    """Returns an entry of a result as text."""
    if name.endswith("accuracy"):
        return f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else value if isinstance(value, str) else json.dumps(value)


def main(argv):
    """Writes the page about the runs in the given folders."""
    found = runs_.find_runs(argv[1:])
    if not found:
        sys.exit(f"No result.json under {argv[1:]}. Name a folder of finished runs, such as runs/demo.")
    output = Path(FLAGS.output or Path(argv[1]) / "page.html")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page(found, FLAGS.sections))
    print(f"Written to {output}: open it in a browser.")


if __name__ == "__main__":
    app.run(main)
