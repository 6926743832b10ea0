"""URLs of servers, as they may be shown."""

import re


def redact(text: str) -> str:
    """Return a URL, or a comma-separated list of URLs, without user, password, token and query, fit for logs."""
    shown: list[str] = []
    for url in re.split(r",\s*(?=[a-z][a-z0-9+.-]*://)", text):
        scheme, separator, rest = url.partition("://")
        if not separator:  # nats-py also takes host:port
            scheme, rest = "", url
        place = rest.rpartition("@")[2]
        hidden = "***@" if place != rest else ""
        place, query, _ = place.partition("?")
        shown.append(f"{scheme}{separator}{hidden}{place}{'?***' if query else ''}")
    return ",".join(shown)
