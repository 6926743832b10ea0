"""What an operator does to a whole lane."""

from penstock.messages.common import Request, Text, Token


class LaneChange(Request, kw_only=True):
    """Pause: nothing of the lane is handed out. Drain: what it has is, and new work is refused. Resume: both again."""

    lane: Token
    reason: Text = ""
