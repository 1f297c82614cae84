"""What a client asks for: bodies in all their forms, files, how it wants its answer."""
