"""The teacher cache: what a training looks at of its teacher, written once and read instead of running it."""
