"""The cluster: its instances, and one connection to each."""
