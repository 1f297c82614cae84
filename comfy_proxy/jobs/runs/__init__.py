"""One job at work: attempts, its prompts, and how far they are."""
