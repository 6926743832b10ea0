"""How long the models run: quick by default; `PENSTOCK_MODEL_EXAMPLES` asks for more."""

import os

from hypothesis import HealthCheck, settings

PROFILE = settings(
    max_examples=int(os.environ.get("PENSTOCK_MODEL_EXAMPLES", "50")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    print_blob=False,
    database=None,
)
