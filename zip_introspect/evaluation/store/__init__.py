"""Rollouts and outcomes on disk: collecting, keeping and scoring them again."""
