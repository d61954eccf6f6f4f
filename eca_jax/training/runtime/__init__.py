"""What a run needs of its machines: other processes, signals, a supervisor, a progress bar."""
