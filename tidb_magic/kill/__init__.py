"""KILL: its parser, the checks before it is sent, the route to the instance, and the proof of its effect."""
