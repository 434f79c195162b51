"""Writes the page docs/benchmarks.md, which has a section for each benchmark."""

import datetime
import platform
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/benchmarks.md"
_HEAD = """# Benchmarks

Made by `python tools/benchmark.py export --write` and `python tools/benchmark.py peers --write`.
"""


def markdown_table(header, rows):
    """Returns a Markdown table. `header` is a list of str, `rows` a list of such lists."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write_section(name, text, page=PAGE):
    """Writes the section of a benchmark to the page. Sections are enclosed in comments; the others do not change.

    Args:
        name: str, name of the benchmark.
        text: str, Markdown.
        page: `Path` of the page.
    """
    old = page.read_text() if page.exists() else _HEAD
    section = f"<!-- {name} -->\n{text}\n<!-- end of {name} -->\n"
    pattern = re.compile(rf"<!-- {name} -->\n.*?<!-- end of {name} -->\n", re.DOTALL)
    page.write_text(pattern.sub(lambda _: section, old) if pattern.search(old) else f"{old}\n{section}")


def machine_description():
    """Returns the processor, its load and the date as text."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
    load = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "?"
    return f"{name}, load {load} at the end, {datetime.date.today()}"
