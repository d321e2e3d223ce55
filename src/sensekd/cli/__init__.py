"""The `sensekd` command: one thin module per command; heavy libraries load inside the commands."""
