"""What every test shares: how hypothesis behaves, and that Ctrl-C counts. A machine under load is no reason to fail, and what is tried is the same everywhere.

To look for new failures, `HYPOTHESIS_PROFILE=search` tries other examples each time.
"""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# Nothing is asked of time, and fixtures are as good for the second example as for the first.
settings.register_profile(
    "soliton",
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.function_scoped_fixture,
    ],
)
settings.register_profile("search", settings.get_profile("soliton"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "soliton"))

# A shell without job control has what it runs in the background ignore it, and all that is started there; so does nohup the other.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
