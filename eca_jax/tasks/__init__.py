"""What is trained and how it is judged: one object a task."""
