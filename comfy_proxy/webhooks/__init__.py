"""Webhooks: at a job's end its status is posted to the URL that its client has named."""
