"""The miniature world of the demonstration, and the small teacher that is trained on it."""
