"""What a monitor of training is made of: when, what, and where to."""
