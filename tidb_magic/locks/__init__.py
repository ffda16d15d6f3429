"""Lock waits: which session blocks which, as a forest."""
