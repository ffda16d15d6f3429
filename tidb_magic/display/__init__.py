"""Frames, text and HTML. Text from a server is shown, never interpreted."""
