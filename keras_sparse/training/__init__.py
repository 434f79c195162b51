"""What every sparse training method stands on."""
