"""From rollouts with hidden states to a head: labels, training, replays that choose its settings, and a report."""
