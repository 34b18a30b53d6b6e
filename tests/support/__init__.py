"""What tests share: media, models and runs that are made for them, and processes to run them in."""
