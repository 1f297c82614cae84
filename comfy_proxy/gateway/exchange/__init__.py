"""One request to instances and one answer to the client: forwarded, asked of several, relayed."""
