"""What device and edge agree on: frames and keys."""
