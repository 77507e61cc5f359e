"""Define the parts of a training method: attack, objective, fairness, weight perturbation and average."""
