"""Settings that every test shares."""

from hypothesis import settings

# Examples are timed by nobody: on a busy machine a deadline fails tests that are right.
settings.register_profile("project", deadline=None)
settings.load_profile("project")
