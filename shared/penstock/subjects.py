"""The subjects that are not verbs (those are in `penstock.verbs`), each built in one place."""


def worker_subject(root: str, worker_id: str) -> str:
    """Pushes to one worker: cancellations, and the word to drain."""
    return f"{root}.worker.{worker_id}"


def frame_subject(root: str, execution_id: str) -> str:
    """An execution's frames, live."""
    return f"{root}.frame.{execution_id}"


def signal_subject(root: str, waitpoint_id: str, name: str) -> str:
    """A published signal."""
    return f"{root}.signal.{waitpoint_id}.{name}"


def observation_subject(root: str, flow_id: str) -> str:
    """A published observation of a mirrored flow's step."""
    return f"{root}.observation.{flow_id}"


def event_subject(root: str, topic: str) -> str:
    """Where an event that flows may wait for is published."""
    return f"{root}.event.{topic}"
