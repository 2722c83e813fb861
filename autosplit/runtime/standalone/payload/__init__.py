"""What crosses the channel: codes, features and images as bytes."""
