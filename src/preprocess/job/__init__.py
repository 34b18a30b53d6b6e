"""What a rank does between reading its configuration and its last commit."""
