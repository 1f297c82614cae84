"""What a prompt has made: told, fetched, converted, packed."""
