"""HTTP in, HTTP out. Thin: everything it knows about pictures it asks the core."""
