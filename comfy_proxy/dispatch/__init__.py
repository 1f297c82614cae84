"""The one door by which prompts enter instances: clients' own, our jobs', moved and lost ones."""
