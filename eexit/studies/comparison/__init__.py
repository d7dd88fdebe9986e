"""Several models beside each other, from the tables of finished sweeps and assessments, without a model."""
