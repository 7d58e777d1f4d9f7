"""What surrounds an estimate of log p(x): its summary, its draws, its comparison, its resumption."""
