"""Python's garbage collector in a process that is Penstock's alone: a service, or a worker that `Worker.main` runs."""

import gc


def collect_rarely(after: int) -> None:
    """Leave out of collections what there is now, which lives as long as the process; look at the rest more rarely.

    `after`: so many more containers than have been freed begin a collection of the youngest (Python's default is 700).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(after, 20, 50)
