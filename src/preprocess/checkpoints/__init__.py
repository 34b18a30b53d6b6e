"""Model folders, weight files and names on the Hugging Face hub: one way to find, check, identify and load them."""
