"""The table with Kill buttons, and its JavaScript."""
