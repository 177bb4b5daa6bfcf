"""Profile of `make fuzz`; `make test` runs the same with Hypothesis' own number of examples."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "long", max_examples=50_000, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
