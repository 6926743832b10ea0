"""Work finds a worker: who waits, what each of them gets, and how it reaches them."""
