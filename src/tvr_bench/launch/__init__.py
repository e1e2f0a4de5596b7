"""Many runs from one command: the ablation sweeps, and all models in turn."""
