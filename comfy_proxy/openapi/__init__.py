"""What the proxy's own API takes and gives: one table, of which routes and OpenAPI are made."""
