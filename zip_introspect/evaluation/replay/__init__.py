"""Strategies on stored rollouts, without a model."""
