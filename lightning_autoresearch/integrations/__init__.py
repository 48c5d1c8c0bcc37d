"""Doors to other people's services, one module each; nothing of theirs is imported before it is used."""
