"""The Hypothesis profile of the models: a quick run by default; `PENSTOCK_MODEL_EXAMPLES` sets more examples."""

import os

from hypothesis import HealthCheck, settings

PROFILE = settings(
    max_examples=int(os.environ.get("PENSTOCK_MODEL_EXAMPLES", "30")),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    print_blob=False,
    database=None,
)
