"""Draws what runs have written: accuracy against parameters, where the budget went, thresholds, overlap of masks.

    python tools/figures.py runs/lenet --output_dir figures
    python tools/figures.py runs/demo --output_dir figures --only budget,threshold

Each figure becomes a PNG and an SVG file. Needs matplotlib; the figures of layers need the TensorBoard files of the
runs, and `overlap` and `where` their model.keras, of at least two seeds of one experiment for `overlap`.
"""

import itertools
import statistics
import sys
from pathlib import Path

import matplotlib
from absl import app, flags

import runs as runs_
from published import published

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

FLAGS = flags.FLAGS
if __name__ == "__main__":
    flags.DEFINE_string("output_dir", "figures", "Folder of the figures.")
    flags.DEFINE_list("only", None, "Names of figures, separated by commas; default: all that the runs allow.")

# Okabe and Ito's colours, which the colour-blind tell apart, each with a marker of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
DASHES = ("-", "--", ":", "-.")  # so that lines can be told apart in print, too
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
MOST_LINES = 8  # more layers get a scale of colours instead of a legend


def accuracy(runs):
    """Test accuracy of the last epoch against parameters, mean and standard deviation over seeds, by method."""
    figure, axes = plt.subplots()
    published_label = "published"
    for (label, members), colour, marker in zip(
        runs_.series(runs, but=("sparsity",)).items(), itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False
    ):
        points, theirs = [], []
        for same in runs_.series(members).values():
            accuracies = [100 * run.result["test_accuracy"] for run in same]
            x = statistics.mean(map(runs_.parameters, same))
            points.append((x, statistics.mean(accuracies), statistics.stdev(accuracies) if len(same) > 1 else 0))
            if text := published(same[0].config):
                theirs.append((x, float(text.split(" ")[0])))
        x, y, spread = zip(*sorted(points), strict=True)
        axes.errorbar(x, y, spread, color=colour, marker=marker, ms=5, lw=1.3, capsize=3, label=label)
        if theirs:
            axes.scatter(*zip(*theirs, strict=True), s=70, facecolors="none", edgecolors=colour, label=published_label)
            published_label = None
    axes.set(xscale="log", xlabel="parameters that count (live weights and dense ones)", ylabel="test accuracy, %")
    _plain(axes.xaxis, "{x:,.0f}")
    _legend(figure, axes)
    return figure


def threshold(runs):
    """The threshold that dynamic sparse reparameterization adapts, by epoch."""
    shown = [run for run in runs if run.history.get("threshold")]
    if not shown:
        return None
    figure, axes = plt.subplots()
    for i, (label, members) in enumerate(runs_.series(shown).items()):
        for run in members:
            name = (label if len(runs_.series(shown)) > 1 else run.path.name) if run is members[0] else None
            line = {"color": _colour(i), "ls": DASHES[i % len(DASHES)], "label": name}
            axes.step(run.history["epoch"], run.history["threshold"], where="mid", lw=1.4, **line)
    axes.set(yscale="log", ylabel="threshold")
    by_epoch(axes)
    _legend(figure, axes)
    return figure


def budget(runs):
    """How the budget moved between the layers of a run: live weights of each, over those after the first epoch."""
    return _of_layers(runs, "live", "live weights over those after the first epoch", relative=True)


def density(runs):
    """The density of each layer of a run, by epoch."""
    return _of_layers(runs, "density", "density, %", times=100, scale="log")


def explored(runs):
    """What part of the positions of each layer of a run was ever live, by epoch."""
    return _of_layers(runs, "explored", "positions that were ever live, %", times=100)


def dead(runs):
    """How many output units of each layer of a run have no live weight, by epoch."""
    return _of_layers(runs, "dead_outputs", "units without a live weight into them")


def _of_layers(runs, name, title, relative=False, scale="linear", times=1):
    """A line for each layer of the first run that has them."""
    run = next((run for run in runs if run.layers.get(name)), None)
    if run is None:
        return None
    figure, axes = plt.subplots()
    layers = run.layers[name]
    many = len(layers) > MOST_LINES
    for i, (layer, numbers) in enumerate(layers.items()):
        epochs, numbers = zip(*sorted(numbers.items()), strict=True)
        numbers = [n * times / (max(1, numbers[0]) if relative else 1) for n in numbers]
        colour = plt.cm.viridis(i / (len(layers) - 1)) if many else _colour(i)
        dashes = "-" if many else DASHES[i % len(DASHES)]
        axes.plot(epochs, numbers, color=colour, ls=dashes, lw=1.6, label=layer)
    axes.set(ylabel=title, yscale=scale, title=run.path.name)
    by_epoch(axes)
    if scale == "linear":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    else:
        _plain(axes.yaxis)
    if many:
        names = list(layers)
        bar = figure.colorbar(plt.cm.ScalarMappable(cmap="viridis"), ax=axes, ticks=[0, 1])
        bar.ax.set_yticklabels([names[0], names[-1]])
    else:
        _legend(figure, axes)
    return figure


def where(runs):
    """Where in the network the weights of a run ended: the density of each layer at first and at the end."""
    run = next((run for run in runs if run.layers.get("density")), None)
    if run is None:
        return None
    layers = run.layers["density"]
    size = max(2.2, 0.32 * len(layers) + 1.2)
    figure, axes = plt.subplots(figsize=(6.4, size))
    first, last = ([100 * numbers[edge(numbers)] for numbers in layers.values()] for edge in (min, max))
    places = range(len(layers))
    axes.hlines(places, first, last, color="#8C8C8C", lw=1)
    axes.scatter(first, places, facecolors="white", edgecolors=COLOURS[0], zorder=3, label="after the first epoch")
    axes.scatter(last, places, color=COLOURS[1], marker="s", zorder=3, label="after the last")
    axes.set(xscale="log", xlabel="density, %", yticks=places, yticklabels=list(layers), title=run.path.name)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    _plain(axes.xaxis)
    _legend(figure, axes)
    return figure


def overlap(runs):
    """How much the final masks of two seeds have in common, by layer, beside what chance would give."""
    groups = [same for same in runs_.series(runs).values() if len(same) > 1 and _is_masked(same[0])]
    if not groups:
        return None
    import keras

    import keras_sparse as ks

    figure, axes = plt.subplots()
    names = []
    for i, same in enumerate(groups):
        models = [keras.models.load_model(run.path / "model.keras", compile=False) for run in same]
        found = [ks.compare(a, b) for a, b in itertools.combinations(models, 2)]
        names = [layer.name for layer in found[0].layers]
        by_layer = list(zip(*(x.layers for x in found), strict=True))
        places = [place + (i + 0.5) / len(groups) * 0.7 - 0.35 for place in range(len(names))]
        means = [statistics.mean(x.jaccard for x in pairs) for pairs in by_layer]
        chance = [statistics.mean(map(_by_chance, pairs)) for pairs in by_layer]
        label = next(k for k, v in runs_.series(runs).items() if v == same)
        axes.scatter(places, means, s=22, color=_colour(i), marker=_marker(i), label=label)
        chance_label = "by chance" if i == len(groups) - 1 else None
        axes.scatter(places, chance, s=60, marker="_", color="#8C8C8C", label=chance_label)
    axes.set(ylabel="overlap of two seeds (Jaccard)", ylim=(0, None))
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > MOST_LINES else 0)
    axes.grid(False, axis="x")
    _legend(figure, axes)
    return figure


def _by_chance(layer):
    """The Jaccard index that two random masks of the densities of a `LayerComparison` have on average, nearly."""
    size = 1
    for n in layer.shape:
        size *= n
    a, b = (n / size for n in layer.live)
    return a * b / (a + b - a * b)


def _is_masked(run):
    return bool(run.result.get("live_weights")) and (run.path / "model.keras").exists()


def _colour(i):
    return COLOURS[i % len(COLOURS)]


def _marker(i):
    """Another one with each colour when the colours begin anew."""
    return MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]


def _plain(axis, form="{x:g}"):
    """Numbers instead of powers of ten, at 1, 2 and 5 of each."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter(form))
    axis.set_minor_formatter(NullFormatter())


def by_epoch(axes):
    """Gives the axis of epochs whole numbers."""
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _legend(figure, axes):
    """Puts the legend beside the axes, where no data can be under it."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside right upper", fontsize=9)


FIGURES = (accuracy, threshold, budget, density, explored, dead, where, overlap)


def draw(make, runs):
    """Returns the figure that a function of `FIGURES` makes of runs, or None if they have nothing for it."""
    with plt.rc_context(STYLE):
        return make(runs)


def save(figure, path):
    """Writes a figure as PNG and SVG, the same bytes each time; returns the paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    paths = [path.with_suffix(".png"), path.with_suffix(".svg")]
    with plt.rc_context(STYLE):
        for file, metadata in zip(paths, ({"Software": None}, {"Date": None}), strict=True):
            figure.savefig(file, metadata=metadata)
    plt.close(figure)
    return paths


def main(argv):
    """Draws all figures that the runs allow, or those asked for."""
    found = runs_.find(argv[1:])
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
            print(f"{make.__name__}: the runs have nothing for it. {make.__doc__}")
        else:
            print(*save(figure, Path(FLAGS.output_dir) / make.__name__))


if __name__ == "__main__":
    app.run(main)
