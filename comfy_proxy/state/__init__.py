"""What outlives the process: jobs, clients' prompts, who made which file, learned costs.

Off unless STATE_FILE is set. ``state.py`` joins it with the other rooms, which know nothing of it.
"""
