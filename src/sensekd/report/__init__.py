"""What a comparison found, for people: one self-contained page, and a table for the terminal."""
