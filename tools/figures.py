"""Plots the results of runs: accuracy, live weights and density of layers, thresholds, overlap of masks.

    python tools/figures.py runs/lenet --output_dir figures
    python tools/figures.py runs/demo --output_dir figures --only budget,threshold

Each figure is written as PNG and SVG. The tool needs matplotlib. Figures of layers need the TensorBoard files of the
runs. `overlap` needs the model.keras files of at least two seeds of one experiment.
"""

import itertools
import statistics
import sys
from pathlib import Path

import matplotlib
from absl import app, flags

import runs as runs_
from published import published_accuracy

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

FLAGS = flags.FLAGS
if __name__ == "__main__":
    flags.DEFINE_string("output_dir", "figures", "Folder of the figures.")
    flags.DEFINE_list("only", None, "Names of figures, separated by commas; default: all for which the runs have data.")

# The colors of Okabe and Ito, which color-blind readers can distinguish. Each has its own marker.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
DASHES = ("-", "--", ":", "-.")  # distinguish lines in black and white
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.figsize": (6.4, 3.8),
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "svg.hashsalt": "keras_sparse",
}
MAX_LINES = 8  # Figures with more layers have a color scale instead of a legend.


def accuracy(runs):
    """Test accuracy of the last epoch against parameters, mean and standard deviation over seeds, by method."""
    figure, axes = plt.subplots()
    published_label = "published"
    for (label, members), color, marker in zip(
        runs_.group_by_settings(runs, ignored=("sparsity",)).items(),
        itertools.cycle(COLORS),
        itertools.cycle(MARKERS),
        strict=False,
    ):
        points, published = [], []
        for same in runs_.group_by_settings(members).values():
            accuracies = [100 * run.result["test_accuracy"] for run in same]
            x = statistics.mean(map(runs_.parameters, same))
            points.append((x, statistics.mean(accuracies), statistics.stdev(accuracies) if len(same) > 1 else 0))
            if text := published_accuracy(same[0].config):
                published.append((x, float(text.split(" ")[0])))
        x, y, spread = zip(*sorted(points), strict=True)
        axes.errorbar(x, y, spread, color=color, marker=marker, ms=5, lw=1.3, capsize=3, label=label)
        if published:
            axes.scatter(
                *zip(*published, strict=True), s=70, facecolors="none", edgecolors=color, label=published_label
            )
            published_label = None
    axes.set(xscale="log", xlabel="parameters (live weights and dense parameters)", ylabel="test accuracy, %")
    _plain_numbers(axes.xaxis, "{x:,.0f}")
    _legend(figure, axes)
    return figure


def threshold(runs):
    """Threshold of dynamic sparse reparameterization, by epoch."""
    shown = [run for run in runs if run.history.get("threshold")]
    if not shown:
        return None
    figure, axes = plt.subplots()
    for i, (label, members) in enumerate(runs_.group_by_settings(shown).items()):
        for run in members:
            name = (label if len(runs_.group_by_settings(shown)) > 1 else run.path.name) if run is members[0] else None
            line = {"color": _color(i), "ls": DASHES[i % len(DASHES)], "label": name}
            axes.step(run.history["epoch"], run.history["threshold"], where="mid", lw=1.4, **line)
    axes.set(yscale="log", ylabel="threshold")
    by_epoch(axes)
    _legend(figure, axes)
    return figure


def budget(runs):
    """Live weights of each layer of a run, relative to those after the first epoch."""
    return _plot_layers(runs, "live", "live weights relative to the first epoch", relative=True)


def density(runs):
    """Density of each layer of a run, by epoch."""
    return _plot_layers(runs, "density", "density, %", times=100, scale="log")


def explored(runs):
    """Fraction of the mask elements of each layer of a run that were ever live, by epoch."""
    return _plot_layers(runs, "explored", "mask elements that were ever live, %", times=100)


def dead(runs):
    """Number of output units of each layer of a run without a live weight, by epoch."""
    return _plot_layers(runs, "dead_outputs", "output units without a live weight")


def _plot_layers(runs, name, title, relative=False, scale="linear", times=1):
    """Returns a figure with a line for each layer of the first run that has the statistic `name`, or None."""
    run = next((run for run in runs if run.layers.get(name)), None)
    if run is None:
        return None
    figure, axes = plt.subplots()
    layers = run.layers[name]
    many = len(layers) > MAX_LINES
    for i, (layer, numbers) in enumerate(layers.items()):
        epochs, numbers = zip(*sorted(numbers.items()), strict=True)
        numbers = [n * times / (max(1, numbers[0]) if relative else 1) for n in numbers]
        color = plt.cm.viridis(i / (len(layers) - 1)) if many else _color(i)
        dashes = "-" if many else DASHES[i % len(DASHES)]
        axes.plot(epochs, numbers, color=color, ls=dashes, lw=1.6, label=layer)
    axes.set(ylabel=title, yscale=scale, title=run.path.name)
    by_epoch(axes)
    if scale == "linear":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    else:
        _plain_numbers(axes.yaxis)
    if many:
        names = list(layers)
        bar = figure.colorbar(plt.cm.ScalarMappable(cmap="viridis"), ax=axes, ticks=[0, 1])
        bar.ax.set_yticklabels([names[0], names[-1]])
    else:
        _legend(figure, axes)
    return figure


def where(runs):
    """Density of each layer of a run after the first and after the last epoch."""
    run = next((run for run in runs if run.layers.get("density")), None)
    if run is None:
        return None
    layers = run.layers["density"]
    size = max(2.2, 0.32 * len(layers) + 1.2)
    figure, axes = plt.subplots(figsize=(6.4, size))
    first, last = ([100 * numbers[edge(numbers)] for numbers in layers.values()] for edge in (min, max))
    places = range(len(layers))
    axes.hlines(places, first, last, color="#8C8C8C", lw=1)
    axes.scatter(first, places, facecolors="white", edgecolors=COLORS[0], zorder=3, label="after the first epoch")
    axes.scatter(last, places, color=COLORS[1], marker="s", zorder=3, label="after the last epoch")
    axes.set(xscale="log", xlabel="density, %", yticks=places, yticklabels=list(layers), title=run.path.name)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    _plain_numbers(axes.xaxis)
    _legend(figure, axes)
    return figure


def overlap(runs):
    """Overlap of the final masks of two seeds (Jaccard index) by layer, and that of random masks."""
    groups = {label: list(filter(_is_masked, same)) for label, same in runs_.group_by_settings(runs).items()}
    groups = {label: same for label, same in groups.items() if len(same) > 1}
    if not groups:
        return None
    import keras

    import keras_sparse as ks

    figure, axes = plt.subplots()
    names = []
    for i, (label, same) in enumerate(groups.items()):
        models = [keras.models.load_model(run.path / "model.keras", compile=False) for run in same]
        found = [ks.compare(a, b) for a, b in itertools.combinations(models, 2)]
        names = [layer.name for layer in found[0].layers]
        by_layer = list(zip(*(x.layers for x in found), strict=True))
        places = [place + (i + 0.5) / len(groups) * 0.7 - 0.35 for place in range(len(names))]
        means = [statistics.mean(x.jaccard for x in pairs) for pairs in by_layer]
        chance = [statistics.mean(map(_chance_jaccard, pairs)) for pairs in by_layer]
        axes.scatter(places, means, s=22, color=_color(i), marker=_marker(i), label=label)
        chance_label = "random masks" if i == len(groups) - 1 else None
        axes.scatter(places, chance, s=60, marker="_", color="#8C8C8C", label=chance_label)
    axes.set(ylabel="overlap of two seeds (Jaccard)", ylim=(0, None))
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > MAX_LINES else 0)
    axes.grid(False, axis="x")
    _legend(figure, axes)
    return figure


def _chance_jaccard(layer):
    """Returns the approximate mean Jaccard index of random masks with the densities of a `LayerComparison`."""
    size = 1
    for n in layer.shape:
        size *= n
    a, b = (n / size for n in layer.live)
    return a * b / (a + b - a * b) if a + b else 1.0


def _is_masked(run):
    return bool(run.result.get("live_weights")) and (run.path / "model.keras").exists()


def _color(i):
    return COLORS[i % len(COLORS)]


def _marker(i):
    """Returns a marker for a line. It is shifted when colors repeat, so that color and marker together are unique."""
    return MARKERS[(i + i // len(COLORS)) % len(MARKERS)]


def _plain_numbers(axis, form="{x:g}"):
    """Labels a logarithmic axis with plain numbers at 1, 2 and 5 times each power of ten."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter(form))
    axis.set_minor_formatter(NullFormatter())


def by_epoch(axes):
    """Labels the x axis with epochs, as integers."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _legend(figure, axes):
    """Puts the legend beside the axes, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside right upper", fontsize=9)


FIGURES = (accuracy, threshold, budget, density, explored, dead, where, overlap)


def draw(make, runs):
    """Returns the figure that a function in `FIGURES` makes of runs, or None if they lack the data for it."""
    with plt.rc_context(STYLE):
        return make(runs)


def save(figure, path):
    """Writes a figure as PNG and SVG, reproducibly, and returns the paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path.with_suffix(".png"), path.with_suffix(".svg")]
    with plt.rc_context(STYLE):
        for file, metadata in zip(paths, ({"Software": None}, {"Date": None}), strict=True):
            figure.savefig(file, metadata=metadata)
    plt.close(figure)
    return paths


def main(argv):
    """Plots the figures of `--only`, or all for which the runs have data."""
    found = runs_.find_runs(argv[1:])
    if not found:
        sys.exit(f"No result.json under {argv[1:]}. Name folders of finished runs, such as runs/lenet.")
    wanted = FLAGS.only or [make.__name__ for make in FIGURES]
    unknown = set(wanted) - {make.__name__ for make in FIGURES}
    if unknown:
        sys.exit(
            f"--only takes {', '.join(make.__name__ for make in FIGURES)}. Received: {', '.join(sorted(unknown))}."
        )
    for make in (make for make in FIGURES if make.__name__ in wanted):
        figure = draw(make, found)
        if figure is None:
            print(f"{make.__name__}: the runs lack the data for it. {make.__doc__}")
        else:
            print(*save(figure, Path(FLAGS.output_dir) / make.__name__))


if __name__ == "__main__":
    app.run(main)
