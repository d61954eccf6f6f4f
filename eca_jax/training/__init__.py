"""Training: the state, the step, optimizers, checkpoints and the loop that ties them together."""
