"""What makes the pages of the site that are generated. Each module gives texts in Markdown, by the path of the page."""
