"""Other people's clients, unchanged, against this service: what runs is what their users run."""
