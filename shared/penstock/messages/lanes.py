"""Messages by which an operator changes a whole lane."""

from penstock.messages.common import Request, Text, Token


class LaneChange(Request, kw_only=True):
    """Pause: hand out nothing. Drain: hand out the present work, refuse new work. Resume: hand out and accept work."""

    lane: Token
    reason: Text = ""
