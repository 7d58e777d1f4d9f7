"""Training by stochastic variational inference: ``fit``, its steps, epochs, checkpoints and schedules."""
