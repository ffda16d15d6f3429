"""The Stop button and Ctrl-C: what an interrupted cell or script leaves running in the cluster is ended."""
