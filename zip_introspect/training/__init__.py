"""Training a model of one's own to introspect: rollouts, their values, and the joint's head (section 4, A.1)."""
