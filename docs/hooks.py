"""What mkdocs calls while it builds the site: pages are added that no file in docs/ holds (`building`)."""

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

from building import llms, reference, sources

_texts: dict[str, str] = {}
"""The text of each page, by its path."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference, and a page for each source file that some page links to."""
    pages = {file.src_uri: file.content_string for file in files.documentation_pages()}
    for path, text in {**reference.pages(), **sources.pages(pages)}.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that leave docs/ lead to the pages of those files."""
    _texts[page.file.src_uri] = text = sources.relinked(page.file.src_uri, markdown)
    return text


def on_env(env: object, config: MkDocsConfig, files: Files) -> None:
    """Put the pages as Markdown, and llms.txt, which lists them, beside the HTML."""
    about = config.site_description or ""
    for path, text in llms.files(config.site_name, about, config.nav or [], _texts).items():
        target = Path(config.site_dir, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
