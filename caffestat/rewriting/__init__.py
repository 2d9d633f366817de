"""Changes fillers, and weights that are drawn again: policies, and how they are applied to text and to models."""
