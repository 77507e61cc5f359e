"""The parts that a training method is made of: attack, objective, fairness method, weight perturbation, weight average."""
