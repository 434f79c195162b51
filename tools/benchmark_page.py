"""The page docs/benchmarks.md, of which each benchmark writes its own part."""

import datetime
import platform
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
_HEAD = """# Benchmarks

Made by `python tools/benchmark.py export --write` and `python tools/benchmark.py peers --write`, each its own part.
"""


def table(header, rows):
    """Returns a Markdown table of lists of strings."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(name, text, page=PAGE):
    """Puts a text into its part of the page, between two comments, and leaves the others as they are."""
    old = page.read_text() if page.exists() else _HEAD
    part = f"<!-- {name} -->\n{text}\n<!-- end of {name} -->\n"
    pattern = re.compile(rf"<!-- {name} -->\n.*?<!-- end of {name} -->\n", re.DOTALL)
    page.write_text(pattern.sub(lambda _: part, old) if pattern.search(old) else f"{old}\n{part}")


def machine():
    """Returns what the numbers were measured on, and when, a phrase."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
    load = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "?"
    return f"{name}, load {load} at the end, {datetime.date.today()}"
