"""The code that all sparse training methods share."""
