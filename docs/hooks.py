"""What mkdocs calls while it builds the site: pages are added that no file in docs/ holds (`building`)."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from building import reference, sources  # noqa: E402


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference, and a page for each source file that some page links to."""
    pages = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for path, text in {**reference.pages(), **sources.pages(pages)}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that leave docs/ lead to the pages of those files."""
    return sources.relinked(page.file.src_uri, markdown)
