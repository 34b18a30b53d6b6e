"""What tests share: makers of media, models and runs, and processes to start them in."""
