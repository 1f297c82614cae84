"""The instances' queues, histories, jobs and nodes as one."""
