"""Pages of the site that live elsewhere in the repository, and links that work in both places.

A folder's README stays the only home of its text: the site takes it as it is. A link in a page is written as it works in
the repository; here it becomes a link to the page that has that file, or to a copy of the file in the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "exporter/README.md": "recognise.md",
    "ort_op/README.md": "cpu-op.md",
    "trt_plugin/README.md": "plugin.md",
    "bench/README.md": "benchmarks.md",
    "samples/session/README.md": "session.md",
    "samples/pages/README.md": "pages.md",
    "samples/cifar10/README.md": "cifar10.md",
    "samples/digits/README.md": "digits.md",
    "samples/cpp_runtime/README.md": "cpp-runtime.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""A document of the repository -> its page."""
GLOSSARY = ("CONTRIBUTING.md", "## Glossary", "glossary.md")
"""One section that is a page by itself: the document, the heading, the page."""
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live elsewhere, and every file that a page links to and no page has."""
    texts = {source: (ROOT / source).read_text() for source in PAGES}
    texts |= {f"docs/{file.src_uri}": (ROOT / "docs" / file.src_uri).read_text() for file in files.documentation_pages()}
    results = [p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "bench" / "results").rglob("*.md"))]
    for result in results:
        files.append(File.generated(config, result, content=(ROOT / result).read_text()))
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=_without_glossary(source, texts[source])))
    document, _, page = GLOSSARY
    files.append(File.generated(config, page, content=_glossary(texts[document])))
    for source, text in texts.items():
        for target in _targets(source, text):
            uri = _uri(target)
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs names them
    """Turn links between files of the repository into links between pages of the site."""
    uri = page.file.src_uri
    source = next((s for s, p in PAGES.items() if p == uri), None)
    if source is None:
        source = GLOSSARY[0] if uri == GLOSSARY[2] else uri if uri.startswith("bench/results/") else f"docs/{uri}"

    def rewritten(link: re.Match[str]) -> str:
        target, anchor = _resolve(source, link[1]), link[2] or ""
        if (target, anchor) == (GLOSSARY[0], "#glossary"):
            target, anchor = "docs/" + GLOSSARY[2], ""
        return posixpath.relpath(_uri(target), posixpath.dirname(uri) or ".") + anchor

    pieces, end = [], 0
    for fence in _FENCE.finditer(markdown):
        pieces += [_LINK.sub(rewritten, markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, _LINK.sub(rewritten, markdown[end:])])


def _targets(source: str, text: str) -> list[str]:
    return [_resolve(source, link[1]) for link in _LINK.finditer(_FENCE.sub("", text))]


def _resolve(source: str, link: str) -> str:
    """The file of the repository that a link leads to; a folder stands for its README."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if (ROOT / target).is_dir():
        target = posixpath.join(target, "README.md")
    if target != "docs/" + GLOSSARY[2] and not (ROOT / target).is_file():
        raise PluginError(f"{source} links to {link}, which is not there")
    return target


def _uri(target: str) -> str:
    """Where the site has a file of the repository."""
    if target in PAGES:
        return PAGES[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if target.startswith("bench/results/"):
        return target
    return f"files/{target}" if target.endswith((".png", ".svg")) else f"files/{target}.txt"


def _section(text: str) -> tuple[int, int]:
    """Where the glossary's text begins and ends, without its heading."""
    heading = GLOSSARY[1]
    start = text.index(f"\n{heading}\n") + len(heading) + 2
    end = text.find("\n## ", start)
    return start, len(text) if end < 0 else end + 1


def _glossary(text: str) -> str:
    start, end = _section(text)
    return f"# Glossary\n{text[start:end]}"


def _without_glossary(source: str, text: str) -> str:
    if source != GLOSSARY[0]:
        return text
    start, end = _section(text)
    return f"{text[:start]}\nThe words of the project have [a page of their own](docs/{GLOSSARY[2]}).\n\n{text[end:]}"
