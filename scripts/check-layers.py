#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Check that the sources keep to their layers.

    scripts/check-layers.py [ROOT]

  1. Folders of src/ are layers, and includes point down only (ABOVE below).
     A header is named by its layer: "base/hash.h", never "../base/hash.h".
  2. tools/, bench/ and examples/ see <bitkv.h> and their own folder; the
     tools, whose inspector reads files as they are, see src/log/ too. A
     bench/*_micro.c measures one layer and is no client: it sees that layer
     and below.
  3. include/ includes the standard library only.
  4. A file of src/ has at most 800 lines.
  5. The library never prints, and never ends the program by itself.

Exit status: 0 if all is well, 1 with one line for each violation, 2 if ROOT
is no source tree.
"""

import re
import sys
from pathlib import Path

LINES_MAX = 800

# layer: the layers that it may include, beside itself
BELOW = {
    "base": set(),
    "io": {"base"},
    "log": {"io", "base"},
    "keydir": {"base"},
    "partition": {"log", "keydir", "io", "base"},
    "db": {"partition", "log", "keydir", "io", "base"},
}
CLIENTS = {"tools": {"log"}, "bench": set(), "examples": set()}
PUBLIC = {"bitkv.h", "bitkv.hpp"}
SUFFIXES = {".c", ".h", ".cc", ".hpp", ".cpp"}

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"\n]+)[>"]', re.M)
# A comment or a string or a character: whatever begins first.
NOT_CODE = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.S)
FORBIDDEN = re.compile(
    r"\b(?:(?:v?f?|vd|d)printf|puts|fputs|putchar|putc|fputc|fwrite|perror|psignal"
    r"|abort|exit|_exit|_Exit|quick_exit|assert|err|errx|warn|warnx|syslog)\s*\("
    r"|\b(?:stdout|stderr)\b")


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def without_comments(text, strings_too):
    """Blanks instead of comments (and strings), line breaks kept."""

    def blank(match):
        token = match.group(0)
        if token[0] in "\"'" and not strings_too:
            return token
        return re.sub(r"[^\n]", " ", token)

    return NOT_CODE.sub(blank, text)


def includes(text):
    """(line, "<" or '"', path) of each include directive."""
    code = without_comments(text, strings_too=False)
    for match in INCLUDE.finditer(code):
        yield line_of(code, match.start(1)), match.group(1), match.group(2)


def sources(folder):
    if folder.is_dir():
        yield from (f for f in sorted(folder.rglob("*")) if f.suffix in SUFFIXES and f.is_file())


def check_library(root):
    src = root / "src"
    for file in sources(src):
        name = file.relative_to(root)
        layer = file.relative_to(src).parts[0]
        text = file.read_text(encoding="utf-8")
        if layer not in BELOW:
            yield f"{name}:1: src/{layer} is not a layer"
            continue
        lines = len(text.splitlines())
        if lines > LINES_MAX:
            yield f"{name}:{lines}: more than {LINES_MAX} lines: does it have one responsibility?"
        for line, quote, path in includes(text):
            if quote == "<" or path in PUBLIC:
                if path.split("/")[0] in BELOW and (src / path).exists():
                    yield f"{name}:{line}: <{path}>: headers of the library stand in quotes"
                continue
            target = path.split("/")[0]
            if ".." in path.split("/") or "/" not in path or target not in BELOW:
                yield f'{name}:{line}: "{path}": name a header by its layer, "layer/file.h"'
            elif target != layer and target not in BELOW[layer]:
                yield f"{name}:{line}: {layer} must not include {target} (\"{path}\")"
            elif not (src / path).exists():
                yield f'{name}:{line}: "{path}": there is no such header'
        code = without_comments(text, strings_too=True)
        for match in FORBIDDEN.finditer(code):
            word = match.group(0).rstrip("( \t\n")
            yield (f"{name}:{line_of(code, match.start())}: {word}: "
                   "the library neither prints nor ends the program")


def check_clients(root):
    for folder in CLIENTS:
        for file in sources(root / folder):
            name = file.relative_to(root)
            if folder == "bench" and file.stem.endswith("_micro"):
                layer = file.stem[:-len("_micro")]
                layers = BELOW.get(layer, set()) | ({layer} & set(BELOW))
            else:
                layers = CLIENTS[folder]
            for line, quote, path in includes(file.read_text(encoding="utf-8")):
                first = path.split("/")[0]
                internal = "/" in path and first in BELOW or "src" in path.split("/")
                if path in PUBLIC or internal and first in layers:
                    continue
                own = quote == '"' and ((file.parent / path).exists()
                                        or (root / folder / path).exists())
                if internal or quote == '"' and not own:
                    sees = " and ".join([f"<{x}>" for x in sorted(PUBLIC)] + [f"src/{x}" for x in sorted(layers)])
                    yield f'{name}:{line}: "{path}": {folder}/ sees {sees} only'


def check_public(root):
    for file in sources(root / "include"):
        text = file.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if file.suffix == ".hpp" and lines > LINES_MAX:
            yield (f"{file.relative_to(root)}:{lines}: more than {LINES_MAX} lines: "
                   "does it have one responsibility?")
        for line, quote, path in includes(text):
            part = path.startswith("bitkv/") and (root / "include" / path).exists()
            if quote == '"' or "/" in path and not part:
                yield (f"{file.relative_to(root)}:{line}: {path}: "
                       "a public header needs the standard library only")


def check(root):
    """Every violation below root, as "file:line: what"."""
    return [*check_public(root), *check_library(root), *check_clients(root)]


def main(arguments):
    root = Path(arguments[1] if len(arguments) > 1 else Path(__file__).parent.parent)
    if not (root / "src").is_dir():
        print(f"check-layers: {root} has no src/", file=sys.stderr)
        return 2
    violations = check(root)
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
