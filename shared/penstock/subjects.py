"""The NATS subjects other than those of verbs (which are in `penstock.verbs`)."""

from penstock.ids import WORKER_OF


def worker_subject(root: str, worker_id: str) -> str:
    """Messages pushed to one worker: cancellations, and the request to drain.

    A worker of a user (`<user>--<name>`, in a secured deployment) has them below the user's name, so that NATS
    permissions keep other users from listening: what they would hear is the secret half of a lease.
    """
    user, marked, _ = worker_id.partition(WORKER_OF)
    return f"{root}.worker.{user}.{worker_id}" if marked else f"{root}.worker.{worker_id}"


def frame_subject(root: str, execution_id: str) -> str:
    """An execution's frames, published live as they are stored."""
    return f"{root}.frame.{execution_id}"


def signal_subject(root: str, waitpoint_id: str, name: str) -> str:
    """Where a signal to a waitpoint is published."""
    return f"{root}.signal.{waitpoint_id}.{name}"


def observation_subject(root: str, flow_id: str) -> str:
    """Where an observation of a mirrored flow's step is published."""
    return f"{root}.observation.{flow_id}"


def event_subject(root: str, topic: str) -> str:
    """Where an event that flows may wait for is published."""
    return f"{root}.event.{topic}"
